"""A program that looks names up as any other does, by its C library's resolver: glibc's, or musl's.

Built where the compiler for it is; run in a pod, with the pod's own resolv.conf.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

COMPILERS: Final = {"glibc": ("cc", []), "musl": ("musl-gcc", ["-static"])}

SOURCE: Final = r"""
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* look NAME PROCESSES RATE SECONDS: each process looks up A and AAAA at RATE a second; a line for each: at, took, what. */
int main(int argc, char **argv) {
    int processes = atoi(argv[2]);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    for (int child = 0; child < processes; child++) {
        if (fork()) continue;
        double began = now() + child / (rate * processes);
        for (int number = 0; number < rate * seconds; number++) {
            double due = began + number / rate, left = due - now();
            if (left > 0) usleep(left * 1e6);
            struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM}, *found = NULL;
            double at = now();
            int failed = getaddrinfo(argv[1], "53", &hints, &found);
            char line[160], text[64] = "";
            if (failed) snprintf(text, sizeof text, "error %d", failed);
            else {
                for (struct addrinfo *one = found; one; one = one->ai_next)
                    if (one->ai_family == AF_INET)
                        inet_ntop(AF_INET, &((struct sockaddr_in *)one->ai_addr)->sin_addr, text, sizeof text);
                freeaddrinfo(found);
            }
            int octets = snprintf(line, sizeof line, "%.4f %.4f %s\n", at, now() - at, text);
            if (write(1, line, octets) != octets) _exit(1);
        }
        _exit(0);
    }
    while (wait(NULL) > 0) {}
    return 0;
}
"""


def build(library: str, folder: Path) -> Path | None:
    """Compile it against a C library; None where there is no compiler for that."""
    compiler, flags = COMPILERS[library]
    if shutil.which(compiler) is None:
        return None
    source, program = folder / "look.c", folder / f"look-{library}"
    source.write_text(SOURCE)
    subprocess.run([compiler, *flags, "-O1", "-o", str(program), str(source)], check=True)
    return program
