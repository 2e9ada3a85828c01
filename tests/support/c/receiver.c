/* receiver: counts datagrams on inherited sockets, one socket per slot.
 *
 *   receiver FD...
 *
 * Prints "ready". A line on stdin gives the number of datagrams sent: when that many have arrived, or none for three
 * seconds, it prints {"slots": [{"kind:worker": n}, ...], "duplicates": n, "unmarked": n}. Marks are those of
 * sender.c. Trains (UDP_GRO) are split.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define BATCH 32
#define MARK_AT 52
#define SLOTS 64

struct mark {
    uint32_t magic, sequence;
    uint16_t worker;
    uint8_t kind;
} __attribute__((packed));
enum { KINDS = 3 };

static unsigned long got[SLOTS][KINDS][65536], total, duplicates, unmarked;
static unsigned char seen[1 << 20];

static void take(int slot, const unsigned char *p, unsigned length) {
    struct mark mark;

    total++;
    if (length < MARK_AT + sizeof(mark)) {
        unmarked++;
        return;
    }
    memcpy(&mark, p + MARK_AT, sizeof(mark));
    if (mark.magic != 0x56454447 || mark.kind >= KINDS) {
        unmarked++;
        return;
    }
    got[slot][mark.kind][mark.worker]++;
    unsigned bit = mark.sequence & ((sizeof(seen) << 3) - 1);
    duplicates += seen[bit >> 3] >> (bit & 7) & 1;
    seen[bit >> 3] |= 1 << (bit & 7);
}

static int drain(int slot, int fd) {
    static unsigned char packets[BATCH][65536];
    static char control[BATCH][64];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec vectors[BATCH];
    int n;

    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){packets[i], sizeof(packets[i])};
        messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof(control[i])};
    }
    n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, 0);
    for (int i = 0; i < n; i++) {
        unsigned length = messages[i].msg_len, segment = length;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&messages[i].msg_hdr); c; c = CMSG_NXTHDR(&messages[i].msg_hdr, c)) {
            if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
                segment = *(int *)CMSG_DATA(c);
            }
        }
        for (unsigned at = 0; at < length; at += segment) {
            take(slot, packets[i] + at, length - at < segment ? length - at : segment);
        }
    }
    return n;
}

int main(int argc, char **argv) {
    struct pollfd polled[SLOTS + 1];
    int slots = argc - 1, busy, on = 1;
    unsigned long sent = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (slots < 1 || slots > SLOTS) {
        return 2;
    }
    for (int slot = 0; slot < slots; slot++) {
        polled[slot] = (struct pollfd){atoi(argv[slot + 1]), POLLIN, 0};
        setsockopt(polled[slot].fd, SOL_UDP, UDP_GRO, &on, sizeof(on));
    }
    polled[slots] = (struct pollfd){0, POLLIN, 0};
    puts("ready");
    fflush(stdout);
    do {
        poll(polled, slots + 1, 3000);
        if (polled[slots].fd == 0 && polled[slots].revents) {
            if (scanf("%lu", &sent) != 1) {
                return 3;
            }
            polled[slots].fd = -1;
        }
        busy = 0;
        for (int slot = 0; slot < slots; slot++) {
            while (drain(slot, polled[slot].fd) > 0) {
                busy = 1;
            }
        }
    } while (polled[slots].fd == 0 || (busy && total < sent));
    printf("{\"duplicates\": %lu, \"unmarked\": %lu, \"slots\": [", duplicates, unmarked);
    for (int slot = 0; slot < slots; slot++) {
        const char *comma = "";
        printf("%s{", slot ? ", " : "");
        for (int kind = 0; kind < KINDS; kind++) {
            for (int worker = 0; worker < 65536; worker++) {
                if (got[slot][kind][worker]) {
                    printf("%s\"%d:%d\": %lu", comma, kind, worker, got[slot][kind][worker]);
                    comma = ", ";
                }
            }
        }
        printf("}");
    }
    printf("]}\n");
    return 0;
}
