#!/usr/bin/python3
"""The asyncio peer: an echo server on CPython's own loop and transports. Its command line, its first line and its last
are those of the C servers (serve.h)."""

import argparse
import asyncio
import json
import resource
import signal
import ssl


class Echo(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class EchoInPieces(Echo):
    pieces = 1

    def data_received(self, data):
        piece = -(-len(data) // self.pieces)
        for at in range(0, len(data), piece):
            self.transport.write(data[at:at + piece])


class Sink(Echo):
    def data_received(self, data):
        pass


async def serve(options):
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set_result, None)
    EchoInPieces.pieces = options.split
    protocol = Sink if options.sink else EchoInPieces if options.split > 1 else Echo
    context = None
    if options.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(options.tls_cert, options.tls_key)
    server = await loop.create_server(protocol, "127.0.0.1", options.port, backlog=1024, ssl=context)
    print("listening 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await stop


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--split", type=int, default=1)
    parser.add_argument("--sink", action="store_true")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    asyncio.run(serve(parser.parse_args()))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"server": "asyncio", "user_us": int(usage.ru_utime * 1e6), "system_us": int(usage.ru_stime * 1e6)}))


if __name__ == "__main__":
    main()
