#include "loaders/trial.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

static void in_child(const char *path, void (*try)(const char *path), int seconds, pid_t parent, int answer) {
  static const int deaths[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT, SIGTERM, SIGHUP, SIGXCPU};
  for (int i = 0; i < (int)(sizeof deaths / sizeof *deaths); i++) /* whatever handles them in the parent */
    signal(deaths[i], SIG_DFL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  setrlimit(RLIMIT_CPU, &(struct rlimit){(rlim_t)seconds, (rlim_t)seconds + 1});
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
  if (getppid() != parent) /* it died before the line above */
    raise(SIGKILL);
  try(path);
  const ssize_t told = write(answer, "", 1);
  for (;;) /* the parent ends it: nothing of this process is to be cleaned up twice */
    if (told != 1)
      raise(SIGKILL);
    else
      pause();
}

/* Why a child that gave no answer ended. */
static bool tell_end(const char *path, const char *library, int seconds, bool late, int status,
                     ebb_error *err) {
  const int sign = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (late || sign == SIGXCPU)
    return ebb_fail(err, "%s: %s did not read it in %d seconds: the file is damaged or made to do harm", path,
                    library, seconds);
  if (sign == SIGINT || sign == SIGTERM || sign == SIGHUP)
    return ebb_fail(err, "%s: interrupted while it was tried whether %s can read it (%s)", path, library,
                    strsignal(sign));
  return ebb_fail(err,
                  "%s: %s crashes when it reads it: the file is damaged or made to do harm; get it again",
                  path, library);
}

bool ebb_survives(const char *path, const char *library, void (*try)(const char *path), int seconds,
                  ebb_error *err) {
  int ends[2];
  if (pipe(ends) != 0)
    return ebb_fail(err, "%s: no pipe for a process that tries it: %s", path, strerror(errno));
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    close(ends[0]);
    in_child(path, try, seconds, parent, ends[1]);
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return ebb_fail(err, "%s: no process that tries it: %s", path, strerror(errno));
  }
  struct pollfd answer = {.fd = ends[0], .events = POLLIN};
  char byte;
  int ready, status = 0;
  while ((ready = poll(&answer, 1, seconds * 1000)) < 0 && errno == EINTR)
    ;
  const bool ok = ready > 0 && read(ends[0], &byte, 1) == 1;
  close(ends[0]);
  kill(child, SIGKILL); /* changes nothing of how a child ended that closed its pipe by ending */
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  return ok || tell_end(path, library, seconds, ready == 0, status, err);
}
