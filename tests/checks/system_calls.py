#!/usr/bin/env python3
"""Every call of the library that can fail is known to the tests that let each fail in turn: tests/conformance/faults.h."""

import re
import subprocess

from common import BUILD, ROOT, Skip, main

# libc's functions that ask nothing of the kernel, or cannot be refused as they are used here.
HARMLESS = set(
    """
    __errno_location memchr memcmp memcpy memmove memset snprintf stpcpy strcmp strcspn strlen strnlen strspn strchr strcasecmp
    secure_getenv inet_ntop inet_pton dladdr gai_strerror strerrordesc_np strerrorname_np realloc free
    clock_gettime nanosleep sched_yield getpid sigfillset pthread_sigmask pthread_self pthread_setname_np
    pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock pthread_mutex_destroy pthread_cond_init
    pthread_cond_wait pthread_cond_signal pthread_cond_broadcast pthread_cond_destroy pthread_once pthread_join
    io_uring_ring_dontfork madvise munmap
    pthread_atfork strtoull vsnprintf sem_destroy sem_init sem_post sem_trywait sem_wait
    """.split()
)
# The TLS engine's own functions; what they ask of the kernel is their affair, and memory is refused to them by torture.
ENGINE = re.compile(
    r"(SSL|TLS|BIO|ERR|EVP|X509|PEM|RAND|OPENSSL|OpenSSL|OSSL|GENERAL|i2d|d2i|i2a|OBJ|CRYPTO)_|SSL_|GENERAL_NAMES?_"
)
# Their failures are made by a stub of their own: tests/unit/resolver_stub.c.
STUBBED = {"getaddrinfo", "freeaddrinfo"}


def called():
    library = BUILD / "libtepal.a"
    if not library.exists():
        raise Skip(f"{library.name} is not built")
    listing = subprocess.run(["nm", "-u", library], capture_output=True, text=True, check=True)
    names = {line.split()[1] for line in listing.stdout.splitlines() if line.startswith(" ") and len(line.split()) == 2}
    if any(name.startswith(("__asan", "__tsan", "__ubsan", "__sanitizer")) for name in names):
        raise Skip("a build with a sanitizer calls more than the source does")
    return {name for name in names if not name.startswith(("tpi_", "tepal_", "_GLOBAL_OFFSET_TABLE_"))}


def listed(name):
    text = (ROOT / "tests/meson.build").read_text()
    return set(re.findall(r"'(\w+)'", re.search(rf"^{name} = \[(.*?)\]", text, re.S | re.M).group(1)))


def wrapped():
    names = called()
    lists = ["wrapped_calls"]
    lists += ["ring_calls"] if any(name.startswith("io_uring_") for name in names) else []
    lists += ["tls_calls"] if "SSL_new" in names else []
    return set().union(*map(listed, lists))


def every_call_is_known():
    unknown = {name for name in called() - wrapped() - HARMLESS - STUBBED if not ENGINE.match(name)}
    return [f"src/ calls {name}: wrap it in tests/meson.build and tests/conformance/faults.h" for name in sorted(unknown)]


def no_wrapper_is_left_over():
    return [f"tests/meson.build wraps {name}, which src/ does not call" for name in sorted(wrapped() - called())]


CHECKS = {
    "every_system_call_of_the_library_can_be_made_to_fail": every_call_is_known,
    "no_call_is_wrapped_that_the_library_does_not_make": no_wrapper_is_left_over,
}

if __name__ == "__main__":
    main(CHECKS)
