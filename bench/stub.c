int bench_invert(int c, char **v);
int bench_invert(int c, char **v) {
  (void)c;
  (void)v;
  return 1;
}
int bench_probe(int c, char **v);
int bench_probe(int c, char **v) {
  (void)c;
  (void)v;
  return 1;
}
int bench_load(int c, char **v);
int bench_load(int c, char **v) {
  (void)c;
  (void)v;
  return 1;
}
