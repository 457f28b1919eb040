/* Measurements. Each subcommand is one file; main.c picks. Each parses its own line and returns an exit code. */
#ifndef EBB_BENCH_BENCH_H
#define EBB_BENCH_BENCH_H

int bench_ops(int argc, char **argv);
int bench_step(int argc, char **argv);
int bench_invert(int argc, char **argv);
int bench_probe(int argc, char **argv);
int bench_load(int argc, char **argv);

#endif
