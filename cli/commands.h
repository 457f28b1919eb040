/* The subcommands: each parses its own line and returns an exit code. */
#ifndef EBB_CLI_COMMANDS_H
#define EBB_CLI_COMMANDS_H

int ebb_synth_command(int argc, char **argv);
int ebb_data_command(int argc, char **argv);
int ebb_info_command(int argc, char **argv);
int ebb_eval_command(int argc, char **argv);
int ebb_text_command(int argc, char **argv);
int ebb_run_command(int argc, char **argv);
int ebb_invert_command(int argc, char **argv);
int ebb_generate_command(int argc, char **argv);
int ebb_reconstruct_command(int argc, char **argv);
int ebb_probe_command(int argc, char **argv);
int ebb_report_command(int argc, char **argv);
int ebb_regress_command(int argc, char **argv);
int ebb_export_command(int argc, char **argv);
int ebb_import_command(int argc, char **argv);
int ebb_compare_command(int argc, char **argv);
int ebb_intervene_command(int argc, char **argv);
int ebb_fidelity_command(int argc, char **argv);
int ebb_solver_compare_command(int argc, char **argv);
int ebb_doctor_command(int argc, char **argv);

#endif
