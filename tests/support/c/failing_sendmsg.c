/* LD_PRELOAD: sendmsg() fails on demand.
 *
 *   FAIL_GSO=<errno>    every call with UDP_SEGMENT fails with it
 *   FAIL_EVERY=<n>      every n-th call fails with EAGAIN
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#define UDP_SEGMENT 103
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static ssize_t (*real)(int, const struct msghdr *, int);
    static unsigned calls;
    const char *gso = getenv("FAIL_GSO");
    const char *every = getenv("FAIL_EVERY");
    if (real == NULL) {
        real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
    }
    if (every != NULL && ++calls % (unsigned)atoi(every) == 0) {
        errno = EAGAIN;
        return -1;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); gso != NULL && c != NULL;
         c = CMSG_NXTHDR((struct msghdr *)(size_t)message, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_SEGMENT) {
            errno = atoi(gso);
            return -1;
        }
    }
    return real(fd, message, flags);
}
