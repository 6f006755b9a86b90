# check_layers.cmake - who may include whom, and what may lie at the root.
#
#   cmake -DSOURCE_DIR=... -P check_layers.cmake
#
# A zone is a folder, or some files of one. Its row names the zones whose headers it may
# include and the system headers beyond the C library that it may use. An edge that is
# not in the table is an error: to add one, change the table and say why in the commit.
cmake_minimum_required(VERSION 3.25)

# zone | its files (first match wins) | zones it may include | extra system headers
set(TABLE
  "cmd      | ^[a-z/]+/cmd_[a-z]+\\.c$               | * | .*"
  "main     | ^sim/kvtrace_main\\.c$                 | base | "
  "tests    | ^tests/                               | * | .*"
  "base     | ^traces/base/                         | base | cpuid errno fcntl getopt immintrin unistd"
  "traces   | ^traces/                              | base traces | errno fcntl immintrin unistd hdf5 H5FDdevelop sys/.*"
  "kernels  | ^kernels/                             | base kernels | immintrin"
  "policy   | ^policies/(policy_.*\\.c|family_.*\\.[ch]|.*_impl\\..*|kvt_policy\\.h|kvt_prim\\.h)$ | policy | -only float math string stddef stdint stdbool"
  "policies | ^policies/                            | base policies policy | errno"
  "result   | ^sim/kvt_result\\.h$                   | base traces | "
  "plugin   | ^sim/(plugin|policy_py|py_child)[a-z_]*\\.[ch]$ | base policies policy plugin | dlfcn errno fcntl poll pthread signal spawn stdatomic sys/.* time unistd"
  "bench    | ^sim/bench[a-z_]*\\.[ch]$              | base traces kernels policies policy sim result store bench | errno fcntl immintrin spawn sys/.* time unistd"
  "sim      | ^sim/                                 | base traces kernels policies policy sim result | errno pthread unistd time signal sys/mman"
  "store    | ^analysis/store/                      | base store result | errno fcntl sqlite3 unistd time signal sys/.*"
  "analysis | ^analysis/                            | base store result analysis | errno sqlite3 fcntl unistd time sys/.*"
  "capture  | ^capture/                             | base traces capture | errno pthread unistd fcntl time sys/.*")
set(C_LIBRARY "assert|ctype|float|inttypes|limits|locale|math|setjmp|signal|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|time")
set(GENERATED "^(kvt_version\\.h|cmd_list\\.inc|policy_list\\.inc)$")

# Exactly these at the root, and dot-files; build/ is where builds go.
set(ROOT "^(capture|sim|policies|kernels|analysis|traces|tests|build|CMakeLists\\.txt|CMakePresets\\.json|CMakeUserPresets\\.json|README\\.md|CONTRIBUTING\\.md|CHANGELOG\\.md|LICENSE|bootstrap|\\..+)$")

set(errors 0)
macro(complain text)
  message(SEND_ERROR "${text}")
  math(EXPR errors "${errors} + 1")
endmacro()

function(zone_of file out_zone out_row)
  foreach(row IN LISTS TABLE)
    string(REGEX MATCH "^([a-z]+) *\\| ([^ ]+) *\\| (.*)$" _ "${row}")
    set(zone ${CMAKE_MATCH_1})
    set(allowed "${CMAKE_MATCH_3}")
    if(file MATCHES "${CMAKE_MATCH_2}")
      set(${out_zone} ${zone} PARENT_SCOPE)
      set(${out_row} "${allowed}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${out_zone} "" PARENT_SCOPE)
endfunction()

# What the checkout holds. Without git nobody can tell it from what was made there.
set(at_root "")
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT} ls-files WORKING_DIRECTORY ${SOURCE_DIR} OUTPUT_VARIABLE tracked ERROR_QUIET)
  string(REGEX REPLACE "\n$" "" tracked "${tracked}")
  string(REPLACE "\n" ";" tracked "${tracked}")
  foreach(f IN LISTS tracked)
    string(REGEX REPLACE "/.*" "" f "${f}")
    list(APPEND at_root "${f}")
  endforeach()
  list(REMOVE_DUPLICATES at_root)
endif()
if(NOT at_root)
  message(STATUS "no git checkout: the names at the root are not checked")
endif()
foreach(f IN LISTS at_root)
  if(NOT f MATCHES "${ROOT}")
    complain("${f}: does not belong at the root; see the folder rule in CONTRIBUTING.md")
  endif()
endforeach()

set(files "")
foreach(dir capture sim policies kernels analysis traces tests)
  file(GLOB_RECURSE found RELATIVE ${SOURCE_DIR}
    ${SOURCE_DIR}/${dir}/*.c ${SOURCE_DIR}/${dir}/*.h ${SOURCE_DIR}/${dir}/*.cu ${SOURCE_DIR}/${dir}/*.cuh)
  list(APPEND files ${found})
endforeach()
list(LENGTH files n_files)
if(n_files LESS 20)
  complain("only ${n_files} source files found under ${SOURCE_DIR}: the check looks at the wrong place")
endif()

# A header is named without its folder, so names are unique.
foreach(f IN LISTS files)
  get_filename_component(name "${f}" NAME)
  if(name MATCHES "\\.(h|cuh)$")
    if(DEFINED path_of_${name})
      complain("${f}: there is also ${path_of_${name}}; header names are unique in the project")
    endif()
    set(path_of_${name} "${f}")
  endif()
endforeach()

set(n_edges 0)
foreach(f IN LISTS files)
  zone_of("${f}" zone row)
  if(zone STREQUAL "")
    complain("${f}: no zone in the table of check_layers.cmake covers it")
    continue()
  endif()
  string(REGEX REPLACE " *\\|.*" "" may_include "${row}")
  string(REGEX REPLACE "^[^|]*\\| *" "" may_use "${row}")
  string(REPLACE " " ";" may_include "${may_include}")
  set(libc "${C_LIBRARY}")
  if(may_use MATCHES "^-only ")
    string(REPLACE "-only " "" may_use "${may_use}")
    set(libc "-")
  endif()
  string(REPLACE " " "|" may_use "${may_use}")
  file(STRINGS "${SOURCE_DIR}/${f}" lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    math(EXPR n_edges "${n_edges} + 1")
    if(line MATCHES "include[ \t]*<([^>]+)\\.h(pp)?>")
      set(system "${CMAKE_MATCH_1}")
      if(NOT system MATCHES "^(${libc})$" AND NOT system MATCHES "^(${may_use})$")
        complain("${f}: includes <${system}.h>, which ${zone} may not use")
      endif()
    elseif(line MATCHES "include[ \t]*\"([^\"]+)\"")
      get_filename_component(name "${CMAKE_MATCH_1}" NAME)
      if(name MATCHES "${GENERATED}" OR (name MATCHES "^cJSON\\.h$" AND zone MATCHES "^(cmd|tests)$"))
        continue()
      elseif(NOT DEFINED path_of_${name})
        complain("${f}: includes \"${name}\", which is not a header of this project")
        continue()
      endif()
      zone_of("${path_of_${name}}" target _)
      if(NOT may_include STREQUAL "*" AND NOT target IN_LIST may_include)
        complain("${f}: ${zone} may not include ${path_of_${name}} (${target})")
      endif()
    else()
      complain("${f}: cannot read the include: ${line}")
    endif()
  endforeach()
endforeach()

if(errors)
  message(FATAL_ERROR "${errors} errors")
endif()
message(STATUS "${n_files} files, ${n_edges} includes, all edges in the table")
