# Fuzzers: tests/fuzz/fuzz_NAME.c with its corpus in tests/fuzz/corpus/NAME. Built with clang whatever the compiler of
# the rest, together with the readers they try, and run as tests for EBB_FUZZ_SECONDS each with a fixed seed.

# Wanted but not to be had: the summary says so, and so does a test that is skipped by name.
macro(ebb_no_fuzzers why)
  set(ebb_fuzz_note "not built: ${why}")
  add_test(NAME fuzz_readers COMMAND sh -c "echo 'skipped: ${why}'; exit 77")
  set_tests_properties(fuzz_readers PROPERTIES SKIP_RETURN_CODE 77)
endmacro()

set(EBB_FUZZ_SECONDS 10 CACHE STRING "Seconds that each fuzzer runs as a test")
file(GLOB ebb_fuzzers CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
if(NOT ebb_fuzzers)
  set(ebb_fuzz_note "none in this tree")
  return()
endif()
find_program(EBB_CLANG NAMES clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14)
if(NOT EBB_CLANG)
  ebb_no_fuzzers("clang is missing. Debian: clang libclang-rt-dev")
  return()
endif()

set(fuzz_folder ${CMAKE_BINARY_DIR}/fuzz)
file(MAKE_DIRECTORY ${fuzz_folder})
file(WRITE ${fuzz_folder}/try.c "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9 ? 0 : 0; }\n")
execute_process(COMMAND ${EBB_CLANG} -fsanitize=fuzzer,address,undefined try.c -o try WORKING_DIRECTORY ${fuzz_folder}
                RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
if(failed)
  ebb_no_fuzzers("${EBB_CLANG} has no libFuzzer. Debian: libclang-rt-dev")
  return()
endif()

set(fuzz_flags -std=c11 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all -Wno-unknown-pragmas
    -I${PROJECT_SOURCE_DIR} -I${ebb_generated})
set(fuzz_libraries "")
foreach(name jansson libyaml libpng libcrypto OpenBLAS)
  list(APPEND fuzz_flags ${${name}_CFLAGS})
  list(APPEND fuzz_libraries ${${name}_LDFLAGS})
endforeach()
list(APPEND fuzz_flags -isystem ${EBB_STB_INCLUDE} -isystem ${stb_parent})
list(REMOVE_ITEM fuzz_flags -isystem/usr/include -I/usr/include)

# The readers, compiled once for all fuzzers.
file(GLOB fuzz_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/loaders/*.c ${PROJECT_SOURCE_DIR}/kernels/*.c
     ${PROJECT_SOURCE_DIR}/kernels/cpu/*.c)
set(fuzz_objects "")
foreach(source ${fuzz_sources} ${ebb_fuzzers})
  file(RELATIVE_PATH object ${PROJECT_SOURCE_DIR} ${source})
  string(REPLACE "/" "." object ${object})
  set(object ${fuzz_folder}/${object}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${EBB_CLANG} ${fuzz_flags} -fsanitize=fuzzer-no-link,address,undefined -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} ebb_version DEPFILE ${object}.d VERBATIM COMMENT "Fuzz object ${object}")
  if(source IN_LIST fuzz_sources)
    list(APPEND fuzz_objects ${object})
  endif()
endforeach()
set(fuzz_archive ${fuzz_folder}/libreaders.a)
add_custom_command(OUTPUT ${fuzz_archive} COMMAND ${CMAKE_COMMAND} -E rm -f ${fuzz_archive}
                   COMMAND ${CMAKE_AR} qcs ${fuzz_archive} ${fuzz_objects} DEPENDS ${fuzz_objects} VERBATIM)

set(fuzz_programs "")
set(fuzz_names "")
foreach(source ${ebb_fuzzers})
  get_filename_component(program ${source} NAME_WE)
  string(REGEX REPLACE "^fuzz_" "" name ${program})
  set(object ${fuzz_folder}/tests.fuzz.${program}.c.o)
  set(binary ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${program})
  add_custom_command(
    OUTPUT ${binary}
    COMMAND ${EBB_CLANG} -fsanitize=fuzzer,address,undefined ${object} ${fuzz_archive} ${fuzz_libraries} -lm -o ${binary}
    DEPENDS ${object} ${fuzz_archive} VERBATIM)
  list(APPEND fuzz_programs ${binary})
  list(APPEND fuzz_names ${name})
  add_test(NAME ${program}
           COMMAND ${CMAKE_COMMAND} -DPROGRAM=${binary} -DCORPUS=${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name}
                   -DWORK=${fuzz_folder}/run-${name} -DSECONDS=${EBB_FUZZ_SECONDS} -P ${PROJECT_SOURCE_DIR}/cmake/fuzz_run.cmake)
  math(EXPR limit "${EBB_FUZZ_SECONDS} + 100")
  set_tests_properties(${program} PROPERTIES LABELS fuzz TIMEOUT ${limit})
endforeach()
add_custom_target(fuzzers ALL DEPENDS ${fuzz_programs})
string(JOIN ", " ebb_fuzz_note ${fuzz_names})
string(APPEND ebb_fuzz_note " (${EBB_FUZZ_SECONDS} s each)")
