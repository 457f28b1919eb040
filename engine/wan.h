/* What of Wan's transformer is host mathematics, for tests. */
#ifndef EBB_ENGINE_WAN_H
#define EBB_ENGINE_WAN_H

#include <stdint.h>

/* The rotary positions of a grid of T*H*W = S tokens (w fastest): cos, sin [S, P/2]. A head's P numbers are
 * split into three axes, h and w 2*(P/6) each and t the rest; pair i of an axis of width d at position p
 * turns by p / 10000^(2i/d). P even. */
void ebb_wan_rope(float *cos, float *sin, const int64_t grid[3], int64_t head_width);

#endif
