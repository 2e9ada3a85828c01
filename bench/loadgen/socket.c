/* A UDP socket with UDP_GRO and UDP_SEGMENT, so that the client needs less CPU than the server. */
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

int socket_open(struct connection *connection) {
    const struct target *target = connection->target;
    int on = 1, buffer_bytes = 4 << 20;
    int fd = socket(target->address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) != 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    }
    connection->local_length = sizeof connection->local;
    if (connect(fd, (const struct sockaddr *)&target->address, target->address_length) != 0 ||
        getsockname(fd, (struct sockaddr *)&connection->local, &connection->local_length) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

ssize_t socket_receive(int fd, uint8_t *train, size_t size, size_t *segment) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {train, size};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, 0);
    if (length < 0) {
        return -1;
    }
    *segment = (size_t)length;
    struct cmsghdr *item = CMSG_FIRSTHDR(&message);
    if (item != NULL && item->cmsg_level == IPPROTO_UDP && item->cmsg_type == UDP_GRO) {
        int cut;
        memcpy(&cut, CMSG_DATA(item), sizeof cut);
        *segment = (size_t)cut;
    }
    return length;
}

void socket_send(int fd, const uint8_t *data, size_t length, size_t segment) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
    } control = {0};
    struct iovec vector = {(void *)data, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (segment < length) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *item = CMSG_FIRSTHDR(&message);
        item->cmsg_level = IPPROTO_UDP;
        item->cmsg_type = UDP_SEGMENT;
        item->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = (uint16_t)segment;
        memcpy(CMSG_DATA(item), &size, sizeof size);
    }
    /* A full socket buffer loses the train, as a network would; a refused one is reported by the next read. */
    (void)!sendmsg(fd, &message, 0);
}
