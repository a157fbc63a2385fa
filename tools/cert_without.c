/* In the place of cert_make.c where there is no OpenSSL. */
#include "cert.h"

#include <stdio.h>

bool cert_make(const cert_request *request, cert_texts *made, char *why, size_t why_size) {
    (void)request;
    (void)made;
    snprintf(why, why_size, "no certificate can be made here: this Tepal was built without OpenSSL");
    return false;
}
