/* The floor: what the kernel alone costs. One process, poll, and no more system calls than a greeting needs.
 *
 *   floor tcp GREETING   accept, send, close
 *   floor udp GREETING   recvfrom, sendto
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) return 2;
    const char *greeting = words[2];
    const size_t length = strlen(greeting);
    const int stream = *words[1] != 'u';
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int fd = socket(AF_INET, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, size) || (stream && listen(fd, 4096))) return 1;
    getsockname(fd, (struct sockaddr *)&here, &size);
    printf("Server start at port: %d\n", ntohs(here.sin_port));
    fflush(stdout);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    while (poll(&ready, 1, -1) > 0) {
        int peer;
        while (stream && (peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
            send(peer, greeting, length, MSG_NOSIGNAL);
            close(peer);
        }
        char request[2048];
        struct sockaddr_in from;
        size = sizeof from;
        while (!stream && recvfrom(fd, request, sizeof request, 0, (struct sockaddr *)&from, &size) >= 0)
            sendto(fd, greeting, length, 0, (struct sockaddr *)&from, size);
    }
    return 1;
}
