/* The load generator: many peers on one core, greeted again and again.
 *
 *   load tcp  HOST PORT PEERS ...   connect, read the greeting to its end, close; begin again
 *   load udp  HOST PORT PEERS ...   send the request, read the answer; begin again with the next source port
 *   load hold HOST PORT PEERS ...   connect, read the greeting, say so, keep all open until stdin ends
 *
 * One line of JSON on stdout says what happened inside the measured window, with the latencies as log-linear
 * buckets ([lower edge in ns, count]), the processor time that the server used meanwhile, read at the window's edges
 * in the same turn of the loop as the counts, and for how long this program had something to do.
 *
 * It asks the kernel for events without ever sleeping: waking a sleeper on another core costs more than sending a
 * greeting, the server would pay for it, and no server pays so for a peer on another machine. Linux only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define OCTAVE 7 /* 2^7 buckets in each doubling: an error of 0.8 % at most */
#define BUCKETS ((64 - OCTAVE) << OCTAVE)
#define SOURCES 250       /* source addresses 127.0.1.1 and on, so that ports do not run out */
#define UDP_IN_FLIGHT 128 /* what a receive buffer of the default size holds with room to spare */
#define TCP_PATIENCE 20000000000LL
#define UDP_PATIENCE 250000000LL

enum state { IDLE, WAITING, STAYING };

struct peer {
    int fd;
    enum state state;
    bool first;    /* the first byte has come */
    size_t length; /* bytes of the greeting so far */
    int64_t since; /* when this visit began, or was meant to, or (staying) ends */
};

struct ring { /* peers in the order in which they came in */
    int *items;
    int head, count;
};

static struct {
    const char *mode, *expect, *request;
    struct sockaddr_in to;
    int peers, sources;
    bool begins; /* an answer may go on behind what is expected */
    const char *pids;
    double seconds, warm, rate, stay;
} set = {.expect = "", .request = "", .seconds = 1, .sources = SOURCES};

static struct {
    int64_t greeted, reset, lost, wrong, late;
    int64_t buckets[BUCKETS];
} seen;

static struct peer *peers;
static struct ring idle, staying;
static int epoll, in_flight, limit;

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t clock_ns(clockid_t which) {
    struct timespec at;
    if (clock_gettime(which, &at) < 0) die("clock_gettime");
    return (int64_t)at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static int64_t server_ns(void) {
    int64_t sum = 0;
    char *next = (char *)set.pids;
    while (next && *next) {
        clockid_t which;
        if (!clock_getcpuclockid((pid_t)strtol(next, &next, 10), &which)) sum += clock_ns(which);
        if (*next == ',') next++;
        else break;
    }
    return sum;
}

static void push(struct ring *ring, int item) {
    ring->items[(ring->head + ring->count++) % set.peers] = item;
}

static int pop(struct ring *ring) {
    int item = ring->items[ring->head];
    ring->head = (ring->head + 1) % set.peers;
    ring->count--;
    return item;
}

static void record(int64_t ns) {
    if (ns < 0) ns = 0;
    int index = (int)ns;
    if (ns >= 1 << OCTAVE) {
        int shift = 63 - __builtin_clzll((uint64_t)ns) - OCTAVE;
        index = ((shift + 1) << OCTAVE) + (int)((ns >> shift) & ((1 << OCTAVE) - 1));
    }
    seen.buckets[index]++;
}

static int64_t lower_edge(int index) {
    int shift = (index >> OCTAVE) - 1;
    if (shift < 0) return index;
    return (int64_t)((1 << OCTAVE) + (index & ((1 << OCTAVE) - 1))) << shift;
}

static int opened(int type, int number) {
    int one = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET};
    if (fd < 0) die("socket");
    from.sin_addr.s_addr = htonl(0x7f000101 + (uint32_t)(number % set.sources));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind");
    if (connect(fd, (struct sockaddr *)&set.to, sizeof set.to) < 0 && errno != EINPROGRESS) die("connect");
    return fd;
}

static void watch(int fd, int number) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = (uint32_t)number};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

static void begin(int number, int64_t since) {
    static int serial;
    struct peer *peer = &peers[number];
    peer->state = WAITING;
    peer->first = false;
    peer->length = 0;
    peer->since = since;
    in_flight++;
    if (*set.mode == 'u') {
        if (send(peer->fd, set.request, strlen(set.request), 0) < 0 && errno != EAGAIN && errno != ECONNREFUSED) die("send");
        return;
    }
    peer->fd = opened(SOCK_STREAM, serial++);
    watch(peer->fd, number);
}

static void rest(int number) { /* this visit is over */
    if (*set.mode != 'u') close(peers[number].fd);
    peers[number].state = IDLE;
    push(&idle, number);
}

static void finish(int number, int64_t *counter, int64_t now) {
    struct peer *peer = &peers[number];
    in_flight--;
    ++*counter;
    if (counter == &seen.greeted && set.stay > 0) {
        peer->state = STAYING;
        peer->since = now + (int64_t)(set.stay * 1e9);
        push(&staying, number);
        return;
    }
    rest(number);
}

static void readable(int number, uint32_t events, int64_t now) {
    struct peer *peer = &peers[number];
    char data[2048];
    ssize_t got;
    if (peer->state != WAITING) {
        if (*set.mode == 'u') (void)!recv(peer->fd, data, sizeof data, 0); /* an answer that was given up */
        return;
    }
    while ((got = recv(peer->fd, data, sizeof data, 0)) > 0) {
        size_t expected = strlen(set.expect);
        if (set.begins && (size_t)got > expected) got = (ssize_t)expected;
        bool right = peer->length + (size_t)got <= expected && !memcmp(set.expect + peer->length, data, (size_t)got);
        if (!peer->first) record(now - peer->since);
        peer->first = true;
        peer->length = right ? peer->length + (size_t)got : sizeof data;
        if (*set.mode == 'u' || events & EPOLLRDHUP) got = 0;
        if (!got) break;
    }
    if (got < 0 && errno == EAGAIN) return;
    if (got < 0)
        finish(number, &seen.reset, now);
    else
        finish(number, peer->length == strlen(set.expect) ? &seen.greeted : &seen.wrong, now);
}

static void give_up(int64_t now) { /* on visits that nobody answers */
    int64_t patience = *set.mode == 'u' ? UDP_PATIENCE : TCP_PATIENCE;
    for (int number = 0; number < set.peers; number++)
        if (peers[number].state == WAITING && now - peers[number].since > patience) finish(number, &seen.lost, now);
}

static void report(int64_t took, int64_t server, int64_t busy) {
    const char *comma = "";
    printf("{\"seconds\": %.9f, \"greeted\": %lld, \"reset\": %lld, \"lost\": %lld, \"wrong\": %lld, \"late\": %lld, ", took / 1e9,
           (long long)seen.greeted, (long long)seen.reset, (long long)seen.lost, (long long)seen.wrong, (long long)seen.late);
    printf("\"server_cpu\": %.9f, \"load_busy\": %.9f, \"latency\": [", server / 1e9, busy / 1e9);
    for (int index = 0; index < BUCKETS; index++)
        if (seen.buckets[index]) {
            printf("%s[%lld, %lld]", comma, (long long)lower_edge(index), (long long)seen.buckets[index]);
            comma = ", ";
        }
    printf("]}\n");
}

static void start_due(int64_t now, int64_t *due, int64_t gap) {
    while (staying.count && peers[staying.items[staying.head]].since <= now) rest(pop(&staying));
    if (!gap) {
        while (idle.count && in_flight < limit) begin(pop(&idle), now_ns());
        return;
    }
    for (; *due <= now; *due += gap) {
        if (idle.count)
            begin(pop(&idle), *due);
        else
            seen.late++; /* nobody was free to ask: the visit never took place */
    }
}

static void load(void) {
    struct epoll_event events[EVENTS];
    int64_t gap = set.rate > 0 ? (int64_t)(1e9 / set.rate) : 0;
    int64_t now = now_ns(), from = now + (int64_t)(set.warm * 1e9), until = from + (int64_t)(set.seconds * 1e9);
    int64_t due = now, checked = now, began = 0, server = 0, idled = 0;
    while (now < until) {
        start_due(now, &due, gap);
        int64_t asked = now_ns();
        int ready = epoll_wait(epoll, events, EVENTS, 0);
        now = now_ns();
        if (!ready) idled += now - asked;
        for (int at = 0; at < ready; at++) readable((int)events[at].data.u32, events[at].events, now);
        if (now - checked > UDP_PATIENCE) give_up(checked = now);
        if (!began && now >= from) {
            memset(&seen, 0, sizeof seen);
            server = server_ns();
            idled = 0;
            began = now = now_ns();
        }
    }
    server = server_ns() - server;
    now = now_ns();
    report(now - began, server, now - began - idled);
}

static void hold(void) {
    struct epoll_event events[EVENTS];
    char data[64];
    int greeted = 0;
    int64_t until = now_ns() + TCP_PATIENCE;
    while (greeted < set.peers && now_ns() < until) {
        while (idle.count && in_flight < limit) begin(pop(&idle), 0);
        int ready = epoll_wait(epoll, events, EVENTS, 50);
        for (int at = 0; at < ready; at++) {
            struct peer *peer = &peers[events[at].data.u32];
            if (peer->first || recv(peer->fd, data, sizeof data, 0) <= 0) continue;
            peer->first = true;
            in_flight--;
            greeted++;
        }
    }
    printf("{\"held\": %d}\n", greeted);
    fflush(stdout);
    while (read(STDIN_FILENO, data, sizeof data) > 0) continue;
}

static void parse(int count, char **words) {
    if (count < 5) {
        fprintf(stderr, "usage: load tcp|udp|hold HOST PORT PEERS [--seconds S --warm S --rate R --stay S --pid N,N --expect T|--begins T --request T]\n");
        exit(2);
    }
    set.mode = words[1];
    set.to.sin_family = AF_INET;
    set.to.sin_port = htons((uint16_t)atoi(words[3]));
    set.peers = atoi(words[4]);
    if (inet_pton(AF_INET, words[2], &set.to.sin_addr) != 1) die("HOST");
    for (int at = 5; at + 1 < count; at += 2) {
        const char *name = words[at], *value = words[at + 1];
        if (!strcmp(name, "--seconds")) set.seconds = atof(value);
        else if (!strcmp(name, "--warm")) set.warm = atof(value);
        else if (!strcmp(name, "--rate")) set.rate = atof(value);
        else if (!strcmp(name, "--stay")) set.stay = atof(value);
        else if (!strcmp(name, "--sources")) set.sources = atoi(value);
        else if (!strcmp(name, "--pid")) set.pids = value;
        else if (!strcmp(name, "--expect")) set.expect = value;
        else if (!strcmp(name, "--begins")) set.begins = true, set.expect = value;
        else if (!strcmp(name, "--request")) set.request = value;
        else { fprintf(stderr, "load: unknown option %s\n", name); exit(2); }
    }
}

int main(int count, char **words) {
    struct rlimit files;
    parse(count, words);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    peers = calloc((size_t)set.peers, sizeof *peers);
    idle.items = calloc((size_t)set.peers, sizeof(int));
    staying.items = calloc((size_t)set.peers, sizeof(int));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!peers || !idle.items || !staying.items || epoll < 0) die("start");
    limit = *set.mode != 't' && set.peers > UDP_IN_FLIGHT ? UDP_IN_FLIGHT : set.peers;
    for (int number = 0; number < set.peers; number++) {
        push(&idle, number);
        if (*set.mode == 'u') watch(peers[number].fd = opened(SOCK_DGRAM, number), number);
    }
    if (*set.mode == 'h') hold();
    else load();
    return 0;
}
