# SPDX-License-Identifier: Apache-2.0
# The symbols that the library exports, those of exports.map and the functions of the header are the
# same, and all have the version POLARQUANT_0:
#   cmake -DNM=nm -DLIBRARY=FILE -DMAP=FILE -DHEADER=FILE -P exports_test.cmake
cmake_minimum_required(VERSION 3.25)

execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
set(exported "")
string(REGEX MATCHALL "[^\n]+" lines "${symbols}")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "^[0-9a-f]+ . " "" symbol "${line}")
  if(symbol STREQUAL "POLARQUANT_0" OR symbol STREQUAL "POLARQUANT_0@@POLARQUANT_0")
    continue()  # the version itself
  elseif(symbol MATCHES "^(pq_[a-z0-9_]+)@@POLARQUANT_0$")
    list(APPEND exported ${CMAKE_MATCH_1})
  else()
    message(FATAL_ERROR "${LIBRARY} exports \"${symbol}\"; it may export pq_NAME@@POLARQUANT_0 only")
  endif()
endforeach()

file(READ ${MAP} map)
string(REGEX MATCHALL "pq_[a-z0-9_]+" mapped "${map}")
file(READ ${HEADER} header)
string(REGEX MATCHALL "PQ_API [^;(]+\\(" declarations "${header}")
set(declared "")
foreach(declaration IN LISTS declarations)
  string(REGEX MATCH "(pq_[a-z0-9_]+)\\($" name "${declaration}")
  list(APPEND declared ${CMAKE_MATCH_1})
endforeach()

foreach(list exported mapped declared)
  list(SORT ${list})
  list(LENGTH ${list} count)
  message(STATUS "${list}: ${count}")
endforeach()
foreach(list exported declared)
  set(missing ${mapped})
  set(extra ${${list}})
  list(REMOVE_ITEM missing ${${list}} "")
  list(REMOVE_ITEM extra ${mapped} "")
  if(missing OR extra)
    message(FATAL_ERROR "${MAP} and what is ${list} differ: missing \"${missing}\", extra \"${extra}\"")
  endif()
endforeach()
if(NOT mapped)
  message(FATAL_ERROR "${MAP} names no symbol")
endif()
