/* Results as files and as a table. */
#ifndef EBB_PROBE_REPORT_H
#define EBB_PROBE_REPORT_H

#include "loaders/store.h"
#include "probe/results.h"

/* dir/results.json, results.csv, cells.csv, margins.csv, heldout.csv; dir exists. The best cell (`top`, best_*) stands
 * with its accuracy, floors and p of the first repeat; the cells are means over repeats. Numbers that are
 * undefined are null, or empty in CSV. */
bool ebb_results_write(const ebb_results *results, const ebb_store *store, const char *dir, ebb_error *err);
/* From results.json: all but margins. Without "preset" (probed before there were any) it is strict. Errors:
 * missing (with what to do), not of this form. */
bool ebb_results_read(ebb_results *results, const char *dir, ebb_error *err);

/* At most 100 columns wide. */
void ebb_results_print(const ebb_results *results, FILE *out);

#endif
