/* What the official probes write, byte for byte in names, columns and formats of numbers (REFERENCE 3.8),
 * from results of the presets that split as they do. */
#ifndef EBB_PROBE_OFFICIAL_H
#define EBB_PROBE_OFFICIAL_H

#include "loaders/config.h"
#include "loaders/store.h"
#include "probe/results.h"

/* For every row that has blocks, and no heads of its own, dir/official/<model>/<feature>/ (with seed<S>/
 * below it when there are several seeds), where O1 stands for a category when probe.by is category:
 *   probe_scenes_stepNNNN.csv                  scene_dir,label
 *   probe_pairwise_results_stepNNNN_O1.txt     the authors' report
 *   probe_pairwise_results_stepNNNN_O1.csv     block,per_video_acc,pair_acc
 *   probe_pairwise_pervideo_stepNNNN_O1.csv    scene_dir,label,scenario,block_00,score_block_00,...
 *   probe_pairwise_perpair_stepNNNN_O1.csv     scenario_id,plaus_video_idx,impos_video_idx,...
 * Scenes are named as in the official run folder, blocks by their own numbers. Results without
 * cell_margins write nothing. */
bool ebb_official_pairwise(const ebb_results *results, const ebb_store *store, const ebb_config *config,
                           const char *dir, ebb_error *err);

#endif
