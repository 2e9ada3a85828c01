/* sender: sends datagrams that look like QUIC, at a given rate, over inherited sockets.
 *
 *   sender IDS COUNT PER_SECOND INITIAL_PERCENT FD...
 *
 * IDS is a file of records of 22 bytes: a worker id (host order) and a connection ID of it. Each datagram has a mark
 * at offset 52: magic, sequence number, worker id (0 for Initials with an ID that the client chose), kind. Prints
 * {"sent": {"kind:worker": n}} on stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define MARK_AT 52

struct record {
    uint16_t worker;
    unsigned char cid[20];
} __attribute__((packed));
struct mark {
    uint32_t magic, sequence;
    uint16_t worker;
    uint8_t kind;
} __attribute__((packed));
enum { SHORT, INITIAL, HANDSHAKE, KINDS };

static uint64_t state = 88172645463325252ULL;

static uint64_t random64(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static struct record records[65536];
    static unsigned char packets[BATCH][1200];
    static unsigned long sent[KINDS][65536];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    FILE *ids = fopen(argv[1], "rb");
    long count = atol(argv[2]), made = 0;
    double per_second = atof(argv[3]), start;
    int initial_percent = atoi(argv[4]), fds = argc - 5, flow = 0;
    size_t known;
    const char *comma = "";

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!ids || fds < 1 || !(known = fread(records, sizeof(records[0]), 65536, ids))) {
        return 2;
    }
    start = now();
    while (made < count) {
        int size = count - made < BATCH ? (int)(count - made) : BATCH;
        for (int i = 0; i < size; i++) {
            unsigned char *p = packets[i];
            struct record *record = &records[random64() % known];
            struct mark mark = {0x56454447, (uint32_t)(made + i), record->worker, SHORT};
            int length = 100;

            memset(p, 0x5a, 100);
            if ((int)(random64() % 100) < initial_percent) {
                uint64_t dcid = random64() & ~0xffULL; /* first octet 0: cannot be an ID of ours */
                memcpy(p, "\xc3\0\0\0\1\x08", 6);
                memcpy(p + 6, &dcid, 8);
                p[14] = 8;
                memcpy(p + 15, &dcid, 8);
                p[23] = 0;
                mark.worker = 0;
                mark.kind = INITIAL;
                length = 1200;
            } else if (random64() % 16 == 0) {
                memcpy(p, "\xe3\0\0\0\1\x14", 6);
                memcpy(p + 6, record->cid, 20);
                p[26] = 8;
                mark.kind = HANDSHAKE;
            } else {
                p[0] = 0x40;
                memcpy(p + 1, record->cid, 20);
            }
            memcpy(p + MARK_AT, &mark, sizeof(mark));
            sent[mark.kind][mark.worker]++;
            vectors[i] = (struct iovec){p, length};
            memset(&messages[i], 0, sizeof(messages[i]));
            messages[i].msg_hdr.msg_iov = &vectors[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        for (int done = 0; done < size;) {
            int n = sendmmsg(atoi(argv[5 + flow]), messages + done, size - done, 0);
            if (n > 0) {
                done += n;
            } else if (errno == ENOBUFS || errno == EAGAIN) {
                poll(0, 0, 1);
            } else if (errno != ECONNREFUSED) { /* an earlier datagram was refused: this one is still to be sent */
                perror("sendmmsg");
                return 1;
            }
        }
        made += size;
        flow = (flow + 1) % fds;
        double early = start + made / per_second - now();
        if (early > 0) {
            struct timespec pause = {(time_t)early, (long)((early - (time_t)early) * 1e9)};
            nanosleep(&pause, 0);
        }
    }
    printf("{\"sent\": {");
    for (int kind = 0; kind < KINDS; kind++) {
        for (int worker = 0; worker < 65536; worker++) {
            if (sent[kind][worker]) {
                printf("%s\"%d:%d\": %lu", comma, kind, worker, sent[kind][worker]);
                comma = ", ";
            }
        }
    }
    printf("}}\n");
    return 0;
}
