#include "cli/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

const char *ebb_program_name = "ebb";

static void print_help(const ebb_command *c, FILE *out) {
  fprintf(out, "usage: %s %s\n\n%s\n", ebb_program_name, c->usage, c->summary);
  if (c->option_count)
    fprintf(out, "\noptions:\n");
  for (int i = 0; i < c->option_count; i++) {
    char left[64];
    snprintf(left, sizeof left, "--%s %s", c->options[i].name,
             c->options[i].argument ? c->options[i].argument : "");
    fprintf(out, "  %-26s %s\n", left, c->options[i].help);
  }
  fprintf(out, "  %-26s %s\n", "--help", "this text");
  if (c->more_help)
    c->more_help(out);
}

static int usage_error(const ebb_command *c, const char *what, const char *which) {
  fprintf(stderr, "%s: %s%s%s%s\nusage: %s %s\n(--help tells more)\n", ebb_program_name, what,
          which ? " '" : "", which ? which : "", which ? "'" : "", ebb_program_name, c->usage);
  return EBB_EXIT_USAGE;
}

/* Is `value` one of "a|b|c"? */
static bool is_choice(const char *choices, const char *value) {
  size_t n = strlen(value);
  if (n == 0 || strchr(value, '|'))
    return false;
  for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
    if (strncmp(c, value, n) == 0 && (c[n] == '|' || c[n] == '\0'))
      return true;
  return false;
}

static int store_value(const ebb_command *c, const ebb_option *o, const char *value) {
  char *end = NULL;
  errno = 0;
  if (o->kind == EBB_OPTION_TEXT) {
    if (o->choices && !is_choice(o->choices, value)) {
      fprintf(stderr, "%s: --%s: found '%s', expected one of %s\n", ebb_program_name, o->name, value,
              o->choices);
      return EBB_EXIT_USAGE;
    }
    *(const char **)o->to = value;
  } else if (o->kind == EBB_OPTION_INT) {
    long long n = strtoll(value, &end, 10);
    if (errno || end == value || *end || n < o->low || n > o->high) {
      fprintf(stderr, "%s: --%s: found '%s', expected a whole number from %lld to %lld\n", ebb_program_name,
              o->name, value, (long long)o->low, (long long)o->high);
      return EBB_EXIT_USAGE;
    }
    *(int64_t *)o->to = n;
  } else if (o->kind == EBB_OPTION_REAL) {
    double x = strtod(value, &end);
    if (errno || end == value || *end || x != x) {
      fprintf(stderr, "%s: --%s: found '%s', expected a number\n", ebb_program_name, o->name, value);
      return EBB_EXIT_USAGE;
    }
    *(double *)o->to = x;
  } else {
    ebb_text_list *list = o->to;
    if (list->count == (int)(sizeof list->items / sizeof *list->items))
      return usage_error(c, "too many of option", o->name);
    list->items[list->count++] = value;
  }
  return -1;
}

static const ebb_option *find(const ebb_command *c, const char *name, size_t length) {
  for (int i = 0; i < c->option_count; i++)
    if (strlen(c->options[i].name) == length && strncmp(c->options[i].name, name, length) == 0)
      return &c->options[i];
  return NULL;
}

int ebb_command_parse(const ebb_command *c, int argc, char **argv) {
  int positional = 0;
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i];
    if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
      print_help(c, stdout);
      return EBB_EXIT_OK;
    }
    if (strncmp(a, "--", 2) != 0) {
      if (positional == c->positional_max)
        return usage_error(c, "one argument too many:", a);
      c->positional[positional++] = a;
      continue;
    }
    const char *equals = strchr(a, '=');
    const ebb_option *o = find(c, a + 2, equals ? (size_t)(equals - a - 2) : strlen(a + 2));
    if (!o)
      return usage_error(c, "unknown option", a);
    if (o->kind == EBB_OPTION_FLAG) {
      if (equals)
        return usage_error(c, "no value expected:", a);
      *(int *)o->to = 1;
      continue;
    }
    const char *value = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
    if (!value)
      return usage_error(c, "a value is missing after", a);
    int code = store_value(c, o, value);
    if (code >= 0)
      return code;
  }
  if (positional < c->positional_min)
    return usage_error(c, "an argument is missing", NULL);
  return -1;
}
