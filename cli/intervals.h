/* Numbers and intervals in JSON files of commands: what is not finite is null. */
#ifndef EBB_CLI_INTERVALS_H
#define EBB_CLI_INTERVALS_H

#include "probe/stats.h"

#include <jansson.h>

json_t *ebb_number_json(double v);
json_t *ebb_interval_json(const ebb_interval *i);   /* {"value", "low", "high"} */
ebb_interval ebb_interval_in(const json_t *object); /* the same three; NaN where there is none */

#endif
