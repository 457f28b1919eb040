# One fuzzer as a test: a copy of its corpus, a fixed seed, a fixed time. What it finds stays in WORK.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK}/corpus)
if(EXISTS ${CORPUS})
  file(COPY ${CORPUS}/ DESTINATION ${WORK}/corpus)
endif()
execute_process(
  COMMAND ${PROGRAM} -seed=1 -max_total_time=${SECONDS} -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
          -verbosity=0 -artifact_prefix=${WORK}/ ${WORK}/corpus
  WORKING_DIRECTORY ${WORK} RESULT_VARIABLE failed)
if(failed)
  file(GLOB findings ${WORK}/crash-* ${WORK}/timeout-* ${WORK}/oom-* ${WORK}/leak-*)
  message(FATAL_ERROR "${PROGRAM} failed (${failed}); inputs: ${findings}")
endif()
