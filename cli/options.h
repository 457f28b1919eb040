/* Command lines: one table a command, which parses, checks and explains itself. */
#ifndef EBB_CLI_OPTIONS_H
#define EBB_CLI_OPTIONS_H

#include <stdint.h>
#include <stdio.h>

enum { EBB_EXIT_OK = 0, EBB_EXIT_ERROR = 1, EBB_EXIT_USAGE = 2, EBB_EXIT_SOME_FAILED = 3 };

typedef enum ebb_option_kind {
  EBB_OPTION_TEXT, /* const char ** */
  EBB_OPTION_INT,  /* int64_t *, in [low, high] */
  EBB_OPTION_REAL, /* double * */
  EBB_OPTION_FLAG, /* int *, set to 1 */
  EBB_OPTION_LIST  /* ebb_text_list *: may be given again and again */
} ebb_option_kind;

typedef struct ebb_text_list {
  int count;
  const char *items[64];
} ebb_text_list;

typedef struct ebb_option {
  const char *name; /* without the dashes */
  ebb_option_kind kind;
  void *to;
  const char *argument, *help; /* "N", "how many ..." */
  int64_t low, high;           /* for EBB_OPTION_INT */
  const char *choices;         /* for EBB_OPTION_TEXT: "euler|heun"; NULL: any text */
} ebb_option;

typedef struct ebb_command {
  const char *usage;   /* "synth DIR [options]" */
  const char *summary; /* a sentence or a paragraph */
  const ebb_option *options;
  int option_count;
  const char **positional; /* filled in order */
  int positional_min, positional_max;
  void (*more_help)(FILE *out); /* printed after the options; may be NULL */
} ebb_command;

extern const char *ebb_program_name; /* for messages: "ebb"; another program's main sets its own */

/* Parses argv[1..]. Returns -1 to go on, or an exit code: 0 after --help, EBB_EXIT_USAGE after a message on
 * stderr. */
int ebb_command_parse(const ebb_command *command, int argc, char **argv);

#endif
