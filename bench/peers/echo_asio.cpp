// The Boost.Asio peer: an echo server the way Asio's own example has it: a session that keeps itself alive through its
// handlers, async_read_some and async_write in turn, on one io_context told that one thread runs it.
#include <boost/asio.hpp>

#include <csignal>
#include <memory>
#include <utility>
#include <vector>

extern "C" {
#include "../serve.h"
}

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

static serve_options options;

class session : public std::enable_shared_from_this<session> {
  public:
    explicit session(tcp::socket socket) : socket_(std::move(socket)), buffer_(new char[SERVE_READ_BYTES]) {
    }

    void read() {
        auto self = shared_from_this();
        socket_.async_read_some(asio::buffer(buffer_.get(), SERVE_READ_BYTES),
                                [this, self](error_code error, std::size_t length) {
                                    if (error)
                                        return; // the last handler to hold the session closes it
                                    if (options.sink)
                                        read();
                                    else if (options.pieces > 1)
                                        write_pieces(length, 0);
                                    else
                                        write(length);
                                });
    }

  private:
    void write(std::size_t length) {
        auto self = shared_from_this();
        asio::async_write(socket_, asio::buffer(buffer_.get(), length), [this, self](error_code error, std::size_t) {
            if (!error)
                read();
        });
    }

    // One write after the other, since Asio has one write of a socket at a time; or all pieces in one gathering write.
    void write_pieces(std::size_t length, std::size_t done) {
        if (done >= length) {
            read();
            return;
        }
        std::size_t piece = serve_piece(length, options.pieces);
        std::vector<asio::const_buffer> parts;
        do {
            std::size_t part = std::min(piece, length - done);
            parts.push_back(asio::buffer(buffer_.get() + done, part));
            done += part;
        } while (options.gathered && done < length);
        auto self = shared_from_this();
        asio::async_write(socket_, parts, [this, self, length, done](error_code error, std::size_t) {
            if (!error)
                write_pieces(length, done);
        });
    }

    tcp::socket socket_;
    std::unique_ptr<char[]> buffer_; // Asio's operations need one a session; only the pages used take memory
};

static void accept_next(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](error_code error, tcp::socket socket) {
        if (error == asio::error::operation_aborted)
            return;
        if (!error) {
            socket.set_option(tcp::no_delay(true), error);
            std::make_shared<session>(std::move(socket))->read();
        }
        accept_next(acceptor);
    });
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    asio::io_context context(1);
    tcp::acceptor acceptor(context);
    tcp::endpoint endpoint(asio::ip::address_v4::loopback(), options.port);
    acceptor.open(endpoint.protocol());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind(endpoint);
    acceptor.listen(SERVE_BACKLOG);
    accept_next(acceptor);
    asio::signal_set signals(context, SIGTERM, SIGINT);
    signals.async_wait([&context](error_code, int) { context.stop(); });
    serve_announce(acceptor.local_endpoint().port());
    context.run();
    serve_report("asio");
}
