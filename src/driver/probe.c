/*
 * Which driver a loop gets: the one named, the environment's, or the best that works on this kernel. Silent: a driver
 * that the kernel refuses is passed over unless it was asked for by name.
 */
#include "driver/driver.h"
#include "driver/epoll.h"
#include "driver/poll.h"
#include "driver/sim.h"
#ifdef TPI_HAVE_URING
#include "driver/uring.h"
#endif
#include <stdlib.h>
#include <string.h>

const tpi_driver_ops *const tpi_drivers[] = {
    &tpi_epoll_driver,
#ifdef TPI_HAVE_URING
    &tpi_uring_driver,
#endif
    &tpi_poll_driver,
    NULL,
};
const tpi_driver_ops *tpi_extra_driver;

int tpi_driver_new(tpi_driver **driver, const char *name, const tpi_driver_options *options) {
    if (name == NULL) {
        name = secure_getenv("TEPAL_DRIVER");
    }
    if (name != NULL && *name != '\0') {
        for (size_t i = 0; tpi_drivers[i] != NULL; i++) {
            if (strcmp(tpi_drivers[i]->name, name) == 0) {
                return tpi_drivers[i]->create(driver, options);
            }
        }
        if (strcmp(tpi_sim_driver_ops.name, name) == 0) {
            return tpi_sim_driver_ops.create(driver, options); /* never by itself */
        }
        if (tpi_extra_driver != NULL && strcmp(tpi_extra_driver->name, name) == 0) {
            return tpi_extra_driver->create(driver, options);
        }
        return strcmp(name, "uring") == 0 ? TEPAL_ENOTSUP : TEPAL_EINVAL; /* built without it */
    }
    int code = TEPAL_ENOTSUP;
    for (size_t i = 0; tpi_drivers[i] != NULL; i++) {
        code = tpi_drivers[i]->create(driver, options);
        if (code >= 0 || code == TEPAL_ENOMEM) {
            return code;
        }
    }
    return code;
}
