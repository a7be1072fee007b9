# Helpers shared by every CMakeLists.txt of the house.
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)

add_library(pq_options INTERFACE)
target_include_directories(pq_options INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>)
# Contraction off: every instruction set then rounds alike, so encoders agree to the byte.
target_compile_options(pq_options INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
  -ffp-contract=off $<$<BOOL:${PQ_WERROR}>:-Werror>)
target_link_libraries(pq_options INTERFACE Threads::Threads)
if(PQ_SANITIZE)
  target_compile_options(pq_options INTERFACE -fsanitize=${PQ_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(pq_options INTERFACE -fsanitize=${PQ_SANITIZE})
endif()

# pq_room(NAME SOURCES ... DEPENDS ...): one room of src/ as the static target pq_NAME.
function(pq_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(pq_${name} STATIC ${ROOM_SOURCES})
  target_link_libraries(pq_${name} PUBLIC pq_options ${ROOM_DEPENDS})
endfunction()

# pq_test(NAME SOURCES ... DEPENDS ...): a GoogleTest program, registered test by test.
function(pq_test name)
  if(NOT PQ_TESTS)
    return()
  endif()
  cmake_parse_arguments(TEST "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${TEST_SOURCES})
  target_link_libraries(${name} PRIVATE pq_options ${TEST_DEPENDS} GTest::gtest GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
endfunction()
