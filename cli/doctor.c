#include "cli/doctor.h"
#include "cli/commands.h"
#include "cli/options.h"

#include <cblas.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <png.h>
#include <string.h>
#include <yaml.h>

#include "ebb_build.h"
#include "ebb_version.h"
#include "kernels/context.h"

/* One GPU: opened, since only that tells whether it can be used. */
static void print_gpu(FILE *out, int number) {
  char name[24];
  ebb_context c;
  ebb_error err = {{0}};
  size_t available, total;
  snprintf(name, sizeof name, "cuda:%d", number);
  if (ebb_context_open(&c, name, &err)) {
    ebb_context_memory(&c, &available, &total);
    fprintf(out, "  %-14s %s, %.1f of %.1f GiB free, float32%s\n", name, ebb_context_device(&c),
            (double)available / (1 << 30), (double)total / (1 << 30),
            ebb_context_has_half(&c) ? " and bfloat16" : "");
    ebb_context_close(&c);
  } else {
    fprintf(out, "  %-14s cannot be used: %s\n", name, err.text);
  }
}

static void print_backends(FILE *out) {
  fprintf(out, "backends\n");
#if defined(_OPENMP)
  int threads = ebb_context_threads();
#else
  int threads = 1;
#endif
  fprintf(out, "  %-14s %d thread%s, BLAS: %s, running its %s kernels\n", "cpu", threads,
          threads == 1 ? "" : "s", openblas_get_config(), openblas_get_corename());
  const char *why;
  const int gpus = ebb_context_gpus(&why);
  if (gpus < 1)
    fprintf(out, "  %-14s %s%s\n", "cuda", gpus < 0 ? "" : "in this build; no GPU: ", why);
  for (int i = 0; i < gpus; i++)
    print_gpu(out, i);
}

/* The version that runs, when the library tells it; it may differ from the one that was compiled against. */
static const char *running_version(const char *name) {
  if (strcmp(name, "jansson") == 0)
    return jansson_version_str();
  if (strcmp(name, "libyaml") == 0)
    return yaml_get_version_string();
  if (strcmp(name, "libpng") == 0)
    return png_get_libpng_ver(NULL);
  if (strcmp(name, "libcrypto") == 0)
    return OpenSSL_version(OPENSSL_VERSION_STRING);
  return NULL;
}

static void print_required(FILE *out, const char *name, const char *version) {
  const char *running = running_version(name);
  if (running && strcmp(running, version) != 0)
    fprintf(out, "  %-14s %s (built against %s)\n", name, running, version);
  else
    fprintf(out, "  %-14s %s\n", name, version);
}

static void print_optional(FILE *out, const char *name, const char *state, const char *version,
                           const char *note) {
  fprintf(out, "  %-14s %s%s%s: %s\n", name, state, version[0] ? " " : "", version, note);
}

int ebb_doctor(FILE *out) {
  fprintf(out, "ebb %s, commit %s\n", EBB_VERSION, EBB_COMMIT);
  fprintf(out, "build\n  %-14s %s\n  %-14s %s\n  %-14s %s\n", "type", EBB_BUILD_TYPE, "compiler",
          EBB_COMPILER, "flags", EBB_COMPILER_FLAGS);
  print_backends(out);
  fprintf(out, "libraries\n");
#define REQUIRED(name, version) print_required(out, name, version);
  EBB_REQUIRED_LIBRARIES(REQUIRED)
#undef REQUIRED
  fprintf(out, "optional\n");
#define OPTIONAL(name, state, version, note) print_optional(out, name, state, version, note);
  EBB_OPTIONAL_LIBRARIES(OPTIONAL)
#undef OPTIONAL
  return fflush(out) != 0 || ferror(out) ? 1 : 0;
}

int ebb_doctor_command(int argc, char **argv) {
  const ebb_command command = {
      "doctor", "What this build is, what it found, and what this machine can do.", NULL, 0, NULL, 0, 0,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  return code >= 0 ? code : ebb_doctor(stdout);
}
