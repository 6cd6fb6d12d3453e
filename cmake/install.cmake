# Where things go. A wheel (SKBUILD) has the package folder as its prefix and can hold no links; a prefix of one's own
# gets the usual layout with a CMake package, and the plugin in lib/mlff, to be named in LAMMPS_PLUGIN_PATH.
if(SKBUILD)
  install(FILES $<TARGET_FILE:mlff> DESTINATION lib RENAME libmlff.so COMPONENT python)
  install(TARGETS mlffplugin LIBRARY DESTINATION lib COMPONENT python)
  return()
endif()

include(CMakePackageConfigHelpers)
install(TARGETS mlff EXPORT mlffTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES core/include/mlff.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mlff)
install(EXPORT mlffTargets NAMESPACE mlff:: DESTINATION ${package_dir})
configure_package_config_file(cmake/mlffConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/mlffConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/mlffConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mlffConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/mlffConfigVersion.cmake
        DESTINATION ${package_dir})
if(MLFF_BUILD_PAIR)
  install(TARGETS mlffplugin LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/mlff)
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY LICENSES DESTINATION ${CMAKE_INSTALL_DOCDIR})
