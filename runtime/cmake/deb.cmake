# Packages of Debian's, made by cpack from a build without Python for the prefix /usr: libactquant (the
# library, its header, its CMake package), actquant-tools, and actquant-server where it is built.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME actquant)
set(CPACK_PACKAGE_CONTACT "the actquant authors")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL actquant_c actquant_runtime)
if(TARGET actquant-serve)
    list(APPEND CPACK_COMPONENTS_ALL actquant_server)
endif()
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE arm64)
endif()

set(CPACK_DEBIAN_ACTQUANT_C_PACKAGE_NAME libactquant)
set(CPACK_DEBIAN_ACTQUANT_C_PACKAGE_SECTION libs)
set(CPACK_COMPONENT_ACTQUANT_C_DESCRIPTION
    "Runtime for robot policies, the C library and its header")
set(CPACK_DEBIAN_ACTQUANT_RUNTIME_PACKAGE_NAME actquant-tools)
set(CPACK_DEBIAN_ACTQUANT_RUNTIME_PACKAGE_SECTION science)
set(CPACK_COMPONENT_ACTQUANT_RUNTIME_DESCRIPTION
    "Runtime for robot policies, actquant-run and actquant-bench")
set(CPACK_DEBIAN_ACTQUANT_SERVER_PACKAGE_NAME actquant-server)
set(CPACK_DEBIAN_ACTQUANT_SERVER_PACKAGE_SECTION science)
set(CPACK_COMPONENT_ACTQUANT_SERVER_DESCRIPTION
    "Robot policies over websockets, actquant-serve and its systemd unit")

# Policy: each package has the file copyright, here with what is compiled in.
if(ACTQUANT_BUILD_LIBRARY AND NOT SKBUILD)
    install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION share/doc/libactquant
        RENAME copyright COMPONENT actquant_c)
endif()
if(ACTQUANT_BUILD_TOOLS AND NOT SKBUILD)
    install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION share/doc/actquant-tools
        RENAME copyright COMPONENT actquant_runtime)
    install(DIRECTORY "${ACTQUANT_LICENSES}/"
        DESTINATION share/doc/actquant-tools COMPONENT actquant_runtime)
endif()
if(TARGET actquant-serve AND NOT SKBUILD)
    install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION share/doc/actquant-server
        RENAME copyright COMPONENT actquant_server)
    install(DIRECTORY "${ACTQUANT_LICENSES}/"
        DESTINATION share/doc/actquant-server COMPONENT actquant_server)
endif()
include(CPack)
