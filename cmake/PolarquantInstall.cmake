# The libraries for other projects, and how they are found. libpolarquant.a (every room in one
# archive) with the C++ headers, libpolarquant.so with the C header; a CMake package, so that
# find_package(polarquant) gives polarquant::polarquant (C++) and polarquant::c; polarquant.pc for
# C through pkg-config.
include(CMakePackageConfigHelpers)

set(objects "")
foreach(room util math profile codecs format kernels page cache attention)
  list(APPEND objects $<TARGET_OBJECTS:pq_${room}>)
endforeach()
add_library(pq_library STATIC ${objects})
set_target_properties(pq_library PROPERTIES OUTPUT_NAME polarquant EXPORT_NAME polarquant
  LINKER_LANGUAGE CXX ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
target_include_directories(pq_library INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(pq_library INTERFACE cxx_std_20)
target_link_libraries(pq_library INTERFACE Threads::Threads OpenMP::OpenMP_CXX)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/polarquant)
install(TARGETS pq_library EXPORT polarquant ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET polarquant_c)
  install(TARGETS polarquant_c EXPORT polarquant LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  # From where the file lies to the prefix, so that an installed tree may be moved.
  file(RELATIVE_PATH PQ_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/polarquant.pc.in ${CMAKE_BINARY_DIR}/polarquant.pc
    @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/polarquant.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()
install(EXPORT polarquant NAMESPACE polarquant:: DESTINATION ${package} FILE polarquantTargets.cmake)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/polarquant
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
file(WRITE ${CMAKE_BINARY_DIR}/polarquantConfig.cmake
  "include(CMakeFindDependencyMacro)\n"
  "get_property(pq_languages GLOBAL PROPERTY ENABLED_LANGUAGES)\n"
  "if(CXX IN_LIST pq_languages)\n"
  "  find_dependency(Threads)\n  find_dependency(OpenMP COMPONENTS CXX)\n"
  "endif()\n"
  "include(\${CMAKE_CURRENT_LIST_DIR}/polarquantTargets.cmake)\n")
write_basic_package_version_file(${CMAKE_BINARY_DIR}/polarquantConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/polarquantConfig.cmake
  ${CMAKE_BINARY_DIR}/polarquantConfigVersion.cmake DESTINATION ${package})
