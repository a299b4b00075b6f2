/* Adds JITSU_SEED, in hexadecimal digits, to the kernel's random numbers, which begin again with it (random(4)). */
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(void) {
  struct { int entropy_count, buf_size; unsigned char buf[256]; } add = {0};
  const char *seed = getenv("JITSU_SEED");
  int random = open("/dev/random", O_WRONLY);
  if (!seed || random < 0) return 1;
  for (size_t n = 0; n < sizeof add.buf && strlen(seed) >= 2 * n + 2; n++) {
    unsigned byte;
    if (sscanf(seed + 2 * n, "%2x", &byte) != 1) return 2;
    add.buf[n] = (unsigned char)byte;
    add.buf_size++;
  }
  add.entropy_count = 8 * add.buf_size;
  return ioctl(random, RNDADDENTROPY, &add) ? 3 : 0;
}
