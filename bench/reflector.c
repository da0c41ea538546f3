/* The limit of the socket API: recvmmsg, a fixed answer behind the question, sendmmsg. No name is looked up.
 * Usage: reflector PORT; prints "ready" when it is bound. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SLOTS 64
#define OCTETS 4096

static unsigned char data[SLOTS][OCTETS];
static struct sockaddr_in from[SLOTS];
static struct iovec iov[SLOTS];
static struct mmsghdr in[SLOTS];

static int reply(unsigned char *wire, int size) {
    static const unsigned char record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1};
    int at = 12;
    if (size < 17) return size;
    while (at < size && wire[at]) at += wire[at] + 1;
    at += 5;
    if (at > size) return size;
    wire[2] |= 0x84;
    memset(wire + 6, 0, 6);
    wire[7] = 1;
    memcpy(wire + at, record, sizeof record);
    return at + (int)sizeof record;
}

int main(int argc, char **argv) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int octets = 4 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (argc != 2) return 2;
    here.sin_port = htons((unsigned short)atoi(argv[1]));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &octets, sizeof octets);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &octets, sizeof octets);
    if (bind(fd, (struct sockaddr *)&here, sizeof here)) return perror("bind"), 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        poll(&wait, 1, -1);
        for (;;) {
            for (int slot = 0; slot < SLOTS; slot++) {
                iov[slot] = (struct iovec){data[slot], OCTETS};
                in[slot].msg_hdr = (struct msghdr){
                    .msg_name = &from[slot], .msg_namelen = sizeof from[slot], .msg_iov = &iov[slot], .msg_iovlen = 1};
            }
            int count = recvmmsg(fd, in, SLOTS, MSG_DONTWAIT, NULL);
            if (count <= 0) break;
            for (int slot = 0; slot < count; slot++) iov[slot].iov_len = reply(data[slot], (int)in[slot].msg_len);
            for (int sent = 0; sent < count;) {
                int some = sendmmsg(fd, in + sent, (unsigned)(count - sent), MSG_DONTWAIT);
                sent += some > 0 ? some : 1;
            }
            if (count < SLOTS) break;
        }
    }
}
