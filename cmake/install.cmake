# cmake --install, the CMake package, and packages made by CPack.
#
#   programs      bin/mantissa (`mantissa trainer --config ...`), share/mantissa: the embedded model, configs, scripts
#   development   include/mantissa, the libraries, and the package for find_package(mantissa)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(share ${CMAKE_INSTALL_DATADIR}/mantissa)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/mantissa)

install(TARGETS mantissa RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT programs)
install(DIRECTORY builtin configs DESTINATION ${share} COMPONENT programs)
install(FILES docs/config.md docs/tour.md docs/your_task.md docs/troubleshooting.md
        DESTINATION ${share}/docs COMPONENT programs)
install(FILES tools/charts.py tools/dashboard.html tools/dashboard.py tools/log_to.py tools/plot.py tools/run_files.py
              tools/to_jsonl.py
        DESTINATION ${share}/tools COMPONENT programs)
install(FILES tools/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME mantissa
        COMPONENT programs)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT programs)

set(libraries mantissa_core mantissa_autograd mantissa_nn mantissa_rl)
if(TARGET mantissa_cuda)
  list(APPEND libraries mantissa_cuda)
  install(FILES cuda/backend.h DESTINATION include/mantissa/cuda COMPONENT development)
endif()
foreach(library ${libraries})
  string(REPLACE mantissa_ "" name ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${name})
endforeach()
install(TARGETS ${libraries} EXPORT mantissa ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(DIRECTORY core autograd nn rl DESTINATION include/mantissa COMPONENT development FILES_MATCHING PATTERN "*.h")
install(EXPORT mantissa NAMESPACE mantissa:: DESTINATION ${package} FILE mantissa-targets.cmake COMPONENT development)
configure_package_config_file(cmake/mantissa-config.cmake.in ${CMAKE_BINARY_DIR}/mantissa-config.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/mantissa-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/mantissa-config.cmake ${CMAKE_BINARY_DIR}/mantissa-config-version.cmake
        DESTINATION ${package} COMPONENT development)

# `cpack --config build/CPackConfig.cmake -G DEB` writes the programs as a Debian package.
set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_NAME mantissa)
set(CPACK_PACKAGE_CONTACT "the maintainers of mantissa")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Reinforcement learning of language models in FP16")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_COMPONENTS_ALL programs)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_NAME mantissa)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS python3)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
include(CPack)
