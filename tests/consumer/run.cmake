# Installs the build into a folder of its own, builds the consumer against it, runs both programs.
foreach(variable BUILD SOURCE WORK)
  if(NOT DEFINED ${variable})
    message(FATAL_ERROR "-D${variable}= is missing")
  endif()
endforeach()
function(check)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()
file(REMOVE_RECURSE ${WORK})
check(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
check(${CMAKE_COMMAND} -G Ninja -S ${SOURCE} -B ${WORK}/build -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_PREFIX_PATH=${WORK}/prefix)
check(${CMAKE_COMMAND} --build ${WORK}/build)
check(${WORK}/build/consumer)
if(EXAMPLE)  # the C library: through CMake, and through pkg-config with a bare compiler
  foreach(variable CC PKG_CONFIG)
    if(NOT ${variable})
      message(FATAL_ERROR "-D${variable}= is missing")
    endif()
  endforeach()
  check(${CMAKE_COMMAND} -G Ninja -S ${SOURCE}/c -B ${WORK}/build_c -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_C_COMPILER=${CC} -DCMAKE_PREFIX_PATH=${WORK}/prefix -DEXAMPLE=${EXAMPLE})
  check(${CMAKE_COMMAND} --build ${WORK}/build_c)
  check(${WORK}/build_c/consumer_c)

  # Elsewhere, for nothing may remember where it was installed.
  file(RENAME ${WORK}/prefix ${WORK}/moved)
  file(GLOB_RECURSE found ${WORK}/moved/polarquant.pc)
  get_filename_component(folder "${found}" DIRECTORY)
  get_filename_component(library "${folder}" DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs polarquant OUTPUT_VARIABLE flags
    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  check(${CC} -std=c11 -Wall -Wextra -Werror -pedantic ${EXAMPLE} ${flags} -lm
    -o ${WORK}/attend)
  set(ENV{LD_LIBRARY_PATH} "${library}:$ENV{LD_LIBRARY_PATH}")
  check(${WORK}/attend)
  file(RENAME ${WORK}/moved ${WORK}/prefix)
endif()
if(EXISTS ${WORK}/prefix/bin/polarquant)
  check(${WORK}/prefix/bin/polarquant doctor)
endif()
