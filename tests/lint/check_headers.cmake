# check_headers.cmake - every public header compiles alone, twice in a row, without a
# warning, as C11, C17 and C++17. Public: kvt_*.h, kvcap.h, ref_attention.h.
#
#   cmake -DSOURCE_DIR=... -P check_headers.cmake
cmake_minimum_required(VERSION 3.25)

set(errors 0)
find_program(CC_FOUND NAMES $ENV{CC} cc gcc clang)
find_program(CXX_FOUND NAMES $ENV{CXX} c++ g++ clang++)
if(NOT CC_FOUND OR NOT CXX_FOUND)
  message(FATAL_ERROR "needs a C and a C++ compiler (found: ${CC_FOUND}, ${CXX_FOUND})")
endif()

set(headers "")
set(dirs "")
foreach(dir traces/base traces policies kernels sim analysis/store analysis/report analysis capture)
  file(GLOB found RELATIVE ${SOURCE_DIR}
    ${SOURCE_DIR}/${dir}/kvt_*.h ${SOURCE_DIR}/${dir}/kvcap.h ${SOURCE_DIR}/${dir}/ref_attention.h)
  list(APPEND headers ${found})
  list(APPEND dirs -I${SOURCE_DIR}/${dir})
endforeach()
list(LENGTH headers n)
if(n LESS 15)
  message(FATAL_ERROR "only ${n} public headers found under ${SOURCE_DIR}")
endif()

foreach(h IN LISTS headers)
  get_filename_component(name ${h} NAME)
  foreach(std c11 c17 c++17)
    set(language c)
    set(compiler ${CC_FOUND})
    if(std STREQUAL "c++17")
      set(language c++)
      set(compiler ${CXX_FOUND})
    endif()
    execute_process(
      COMMAND ${compiler} -std=${std} -Wall -Wextra -Wpedantic -Wundef -Wshadow -Werror -fsyntax-only ${dirs}
              -include ${name} -include ${name} -x ${language} -
      INPUT_FILE /dev/null OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE rc)
    if(NOT rc EQUAL 0)
      math(EXPR errors "${errors} + 1")
      message(SEND_ERROR "${h} as ${std}:\n${text}")
    endif()
  endforeach()
endforeach()
if(errors)
  message(FATAL_ERROR "${errors} errors")
endif()
message(STATUS "${n} headers compile alone as C11, C17 and C++17")
