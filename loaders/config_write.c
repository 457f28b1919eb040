#include "loaders/config.h"
#include "loaders/config_schema.h"

#include <stdlib.h>
#include <string.h>
#include <threads.h>

/* Each key's default goes through the same reader as a user's value. */
static ebb_config standard;
static once_flag standard_made = ONCE_FLAG_INIT;

static void make_standard(void) {
  for (int i = 0; i < ebb_key_count; i++) {
    char assignment[128];
    snprintf(assignment, sizeof assignment, "%s=%s", ebb_keys[i].name, ebb_keys[i].standard);
    ebb_error err = {""};
    if (!ebb_config_set(&standard, assignment, &err)) { /* a row of the schema that breaks its own rules */
      fprintf(stderr, "ebb: the default %s\n", err.text);
      abort();
    }
  }
}

void ebb_config_defaults(ebb_config *config) {
  call_once(&standard_made, make_standard);
  *config = standard;
}

/* The code point at *p, which moves behind it; a byte that is not UTF-8 stands for itself. */
static uint32_t code_point(const unsigned char **p) {
  const unsigned char *s = *p;
  int more = s[0] >= 0xF0 && s[0] < 0xF8   ? 3
             : s[0] >= 0xE0 && s[0] < 0xF0 ? 2
             : s[0] >= 0xC0 && s[0] < 0xE0 ? 1
                                           : 0;
  uint32_t c = more == 0 ? s[0] : (uint32_t)(s[0] & (0x3F >> more));
  for (int i = 1; i <= more; i++) {
    if ((s[i] & 0xC0) != 0x80) {
      *p = s + 1;
      return s[0];
    }
    c = c << 6 | (s[i] & 0x3Fu);
  }
  *p = s + 1 + more;
  return c;
}

/* Double-quoted; what YAML would not take back as it is stands as an escape. */
static void write_text(const char *text, FILE *out) {
  fputc('"', out);
  for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
    const unsigned char *start = p;
    uint32_t c = code_point(&p);
    if (c == '"' || c == '\\')
      fprintf(out, "\\%c", (int)c);
    else if (c >= 0x20 && c < 0x7F)
      fputc((int)c, out);
    else if (c >= 0xA1 && c < 0xD800 && c != 0x2028 && c != 0x2029 && p > start + 1)
      fwrite(start, 1, (size_t)(p - start), out);
    else
      fprintf(out, "\\U%08X", (unsigned)c);
  }
  fputc('"', out);
}

/* The shortest of 15 to 17 digits that reads back the same. */
static void write_real(double x, FILE *out) {
  char text[40];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x)
      break;
  }
  fputs(text, out);
}

static void write_value(const ebb_config *config, const ebb_key *k, FILE *out) {
  const char *field = (const char *)config + k->offset;
  const ebb_int_list *ints = (const ebb_int_list *)field;
  const ebb_name_list *names = (const ebb_name_list *)field;
  int64_t n[2] = {0, 0};
  double x;
  switch (k->type) {
  case EBB_KEY_TEXT:
    write_text(field, out);
    break;
  case EBB_KEY_INT:
    memcpy(n, field, sizeof n[0]);
    fprintf(out, "%lld", (long long)n[0]);
    break;
  case EBB_KEY_REAL:
    memcpy(&x, field, sizeof x);
    write_real(x, out);
    break;
  case EBB_KEY_BOOL:
    fputs(*(const bool *)field ? "true" : "false", out);
    break;
  case EBB_KEY_SIZE:
    memcpy(n, field, sizeof n);
    fprintf(out, "%lldx%lld", (long long)n[0], (long long)n[1]);
    break;
  case EBB_KEY_INTS:
    if (ints->count < 0) {
      fputs("all", out);
      break;
    }
    fputc('[', out);
    for (int i = 0; i < ints->count; i++)
      fprintf(out, "%s%lld", i > 0 ? ", " : "", (long long)ints->values[i]);
    fputc(']', out);
    break;
  case EBB_KEY_NAMES:
    fputc('[', out);
    for (int i = 0; i < names->count; i++) {
      fputs(i > 0 ? ", " : "", out);
      write_text(names->names[i], out);
    }
    fputc(']', out);
    break;
  }
}

bool ebb_config_write(const ebb_config *config, FILE *out) {
  char section[32] = "";
  for (int i = 0; i < ebb_key_count; i++) {
    const char *name = ebb_keys[i].name, *dot = strchr(name, '.');
    size_t n = dot == NULL ? 0 : (size_t)(dot - name);
    if (strlen(section) != n || strncmp(section, name, n) != 0) {
      snprintf(section, sizeof section, "%.*s", (int)n, name);
      fprintf(out, "%s:\n", section);
    }
    fprintf(out, "%s%s: ", dot == NULL ? "" : "  ", dot == NULL ? name : dot + 1);
    write_value(config, &ebb_keys[i], out);
    fputc('\n', out);
  }
  return fflush(out) == 0 && !ferror(out);
}

void ebb_config_help(FILE *out) {
  for (int i = 0; i < ebb_key_count; i++) {
    const ebb_key *k = &ebb_keys[i];
    char expected[512];
    fprintf(out, "%-20s %s%s%s%s\n%-20s %s; default %s\n", k->name, k->help, k->unit[0] != '\0' ? " [" : "",
            k->unit, k->unit[0] != '\0' ? "]" : "", "", ebb_key_expected(k, expected, sizeof expected),
            k->standard);
  }
}
