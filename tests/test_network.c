/* tier: host
 * No network, where the official code logs to it unless told otherwise: a process that dies at its first
 * socket makes embeddings and inverts videos. */
#include "loaders/file.h"
#include "loaders/synth.h"
#include "loaders/tokenizer.h"
#include "tests/test_files.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* From here on any socket of this process and its children is its end. False: the kernel has no such filters.
 * */
static bool forbid_sockets(void) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

#define NO_FILTER 99

/* The wait status of a child that may open no socket: a shell's, or, with NULL, one that opens a socket. */
static int without_sockets(const char *command) {
  int status = 0;
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    if (!forbid_sockets())
      _exit(NO_FILTER);
    if (command)
      execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 1 : 2);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

/* Everything from the prompt to the run's last byte, in a process that dies at its first socket. */
static void defect_27_no_network(void **state) {
  (void)state;
  char model[300], setup[2000];
  snprintf(model, sizeof model, "%s", at("model"));
  snprintf(
      setup, sizeof setup,
      "mkdir '%s' && cp -r tests/fixtures/models/wan-a/* '%s' && cp -r tests/fixtures/models/text-b/* '%s'",
      model, model, model);
  assert_int_equal(system(setup), 0);
  const char *bin = getenv("EBB_BIN");
  const ebb_synth_options world = {3, 32, 9};
  ebb_error err = {0};
  if (!ebb_tokenizer_built_in())
    skip();
  assert_true(ebb_synth_intphys(at("data"), "O1", 1, &world, &err));
  int status = without_sockets(NULL);
  if (WIFEXITED(status) && WEXITSTATUS(status) == NO_FILTER) {
    print_message("skipped: no seccomp filters here\n");
    skip();
  }
  assert_true(WIFSIGNALED(status)); /* the filter holds */
  char command[2000];
  snprintf(command, sizeof command,
           "'%s/ebb' text embed --model '%s' --out '%s' --prompt 'A red ball' --max-tokens 20 --device cpu "
           ">/dev/null && cd '%s' && printf '%%s\\n' 'model: {path: model}' "
           "'data: {path: data, size: 32x32, frames: 5}' 'prompt: {text: A red ball, max_tokens: 20}' "
           "'inversion: {steps: 1}' 'run: {device: cpu}' > net.yaml && '%s/ebb' invert net.yaml --out net "
           ">net.log 2>&1",
           bin ? bin : "build/bin", model, at("net.safetensors"), folder, bin ? bin : "build/bin");
  status = without_sockets(command);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    fail_msg("without sockets: status %x (%s)", (unsigned)status, command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(defect_27_no_network, folder_make, folder_remove)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
