# ggml as a static library, and the headers of nlohmann/json, stb_image and xxHash that come with it
# (ACTQUANT_VENDOR_DIR), from the source of llama.cpp inside the sdist of llama-cpp-python.
#
# The sdist is fetched once by pip, kept in the user's cache and checked by its hash. With
# -DGGML_SOURCE_DIR=<llama.cpp's folder ggml> nothing is fetched.

set(GGML_SOURCE_DIR "" CACHE PATH "Use this ggml source tree instead of fetching one")
set(sdist_version 0.3.36)
set(sdist_name llama_cpp_python-${sdist_version}.tar.gz)
set(sdist_sha256 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e)

function(actquant_sdist_is_intact path result)
    set(${result} FALSE PARENT_SCOPE)
    if(EXISTS "${path}")
        file(SHA256 "${path}" actual)
        if(actual STREQUAL sdist_sha256)
            set(${result} TRUE PARENT_SCOPE)
        endif()
    endif()
endfunction()

# An isolated build environment may lack pip; any Python with pip can fetch a source archive.
function(actquant_find_pip result)
    find_program(ACTQUANT_ANY_PYTHON NAMES python3 python NO_CACHE)
    foreach(candidate IN ITEMS "${Python_EXECUTABLE}" "${ACTQUANT_ANY_PYTHON}")
        execute_process(COMMAND "${candidate}" -m pip --version
            RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
        if(NOT failed)
            set(${result} "${candidate}" PARENT_SCOPE)
            return()
        endif()
    endforeach()
    message(FATAL_ERROR "No Python with pip was found to fetch ggml. Install pip, or pass "
        "-DGGML_SOURCE_DIR=<ggml source>.")
endfunction()

function(actquant_fetch_sdist destination)
    actquant_find_pip(python)
    string(RANDOM LENGTH 8 suffix)
    set(download_dir "${destination}.${suffix}.part")
    message(STATUS "Fetching ${sdist_name} with pip")
    # pip runs the sdist's metadata hook before it lets go of the archive. Without build isolation
    # that takes seconds; the isolated fallback takes about a minute.
    foreach(isolation IN ITEMS --no-build-isolation --use-pep517)
        execute_process(
            COMMAND "${python}" -m pip download --no-binary :all: --no-deps ${isolation}
                --disable-pip-version-check --dest "${download_dir}"
                llama-cpp-python==${sdist_version}
            RESULT_VARIABLE failed OUTPUT_VARIABLE log ERROR_VARIABLE log)
        if(NOT failed)
            break()
        endif()
    endforeach()
    actquant_sdist_is_intact("${download_dir}/${sdist_name}" intact)
    if(intact)
        file(RENAME "${download_dir}/${sdist_name}" "${destination}")
    endif()
    file(REMOVE_RECURSE "${download_dir}")
    if(failed)
        message(FATAL_ERROR "pip could not fetch ${sdist_name}:\n${log}\n"
            "Pass -DGGML_SOURCE_DIR=<ggml source> to build without it.")
    elseif(NOT intact)
        message(FATAL_ERROR "${sdist_name} does not have the SHA-256 ${sdist_sha256}.")
    endif()
endfunction()

if(NOT GGML_SOURCE_DIR)
    if(DEFINED ENV{XDG_CACHE_HOME})
        set(cache_dir "$ENV{XDG_CACHE_HOME}/actquant")
    else()
        set(cache_dir "$ENV{HOME}/.cache/actquant")
    endif()
    set(extract_dir "${CMAKE_BINARY_DIR}/ggml-source")
    # The digit changes with what is extracted.
    set(stamp "${extract_dir}/${sdist_sha256}-3")
    if(NOT EXISTS "${stamp}")
        file(MAKE_DIRECTORY "${cache_dir}")
        set(sdist "${cache_dir}/${sdist_name}")
        actquant_sdist_is_intact("${sdist}" intact)
        if(NOT intact)
            actquant_fetch_sdist("${sdist}")
        endif()
        file(REMOVE_RECURSE "${extract_dir}")
        file(ARCHIVE_EXTRACT INPUT "${sdist}" DESTINATION "${extract_dir}"
            PATTERNS "*/vendor/llama.cpp/ggml/*" "*/vendor/llama.cpp/LICENSE"
                "*/vendor/llama.cpp/vendor/nlohmann/*" "*/vendor/llama.cpp/vendor/stb/*"
                "*/vendor/llama.cpp/vendor/hash/xxhash/*"
                "*/vendor/llama.cpp/licenses/*")
        file(TOUCH "${stamp}")
    endif()
    set(ggml_dir "${extract_dir}/llama_cpp_python-${sdist_version}/vendor/llama.cpp/ggml")
else()
    set(ggml_dir "${GGML_SOURCE_DIR}")
endif()

get_filename_component(ACTQUANT_VENDOR_DIR "${ggml_dir}/../vendor" ABSOLUTE)
foreach(file IN ITEMS vendor/nlohmann/json.hpp vendor/stb/stb_image.h vendor/hash/xxhash/xxhash.h
        vendor/hash/xxhash/LICENSE LICENSE licenses/LICENSE-jsonhpp)
    if(NOT EXISTS "${ggml_dir}/../${file}")
        message(FATAL_ERROR "${ggml_dir}/.. has no ${file}. GGML_SOURCE_DIR must be the "
            "folder ggml of a llama.cpp source tree, with llama.cpp's folders vendor and licenses "
            "and its file LICENSE beside it.")
    endif()
endforeach()

# What is compiled in wants its licence beside it. stb_image is in the public domain.
set(ACTQUANT_LICENSES "${CMAKE_BINARY_DIR}/licenses")
foreach(license IN ITEMS ggml:LICENSE json:licenses/LICENSE-jsonhpp xxhash:vendor/hash/xxhash/LICENSE)
    string(REPLACE ":" ";" license "${license}")
    list(GET license 0 name)
    list(GET license 1 path)
    configure_file("${ggml_dir}/../${path}" "${ACTQUANT_LICENSES}/LICENSE.${name}" COPYONLY)
endforeach()

set(BUILD_SHARED_LIBS OFF)
# ggml's own thread pool: a wheel then needs no OpenMP runtime.
set(GGML_OPENMP OFF CACHE BOOL "" FORCE)
set(GGML_LLAMAFILE ON CACHE BOOL "" FORCE)
set(GGML_CCACHE OFF CACHE BOOL "" FORCE)
set(GGML_ALL_WARNINGS OFF CACHE BOOL "" FORCE)
set(GGML_NATIVE ON CACHE BOOL "Optimize for the build machine's CPU")
if(ACTQUANT_VULKAN)
    # VK_EXT_layer_settings, which ggml's source names.
    set(vulkan_needed 1.3.272)
    find_package(Vulkan COMPONENTS glslc REQUIRED)
    if(Vulkan_VERSION VERSION_LESS vulkan_needed)
        message(FATAL_ERROR "${Vulkan_INCLUDE_DIR} has the headers of Vulkan ${Vulkan_VERSION}; "
            "ggml needs ${vulkan_needed} or newer. Pass -DVulkan_INCLUDE_DIR=<the folder include "
            "of newer Vulkan-Headers>.")
    endif()
endif()
set(GGML_VULKAN ${ACTQUANT_VULKAN} CACHE BOOL "" FORCE)
set(GGML_CUDA ${ACTQUANT_CUDA} CACHE BOOL "" FORCE)
if(NOT GGML_NATIVE AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    # What every x86-64 processor of the last ten years has.
    foreach(feature IN ITEMS SSE42 AVX AVX2 BMI2 FMA F16C)
        set(GGML_${feature} ON CACHE BOOL "")
    endforeach()
endif()
add_subdirectory("${ggml_dir}" "${CMAKE_BINARY_DIR}/ggml" EXCLUDE_FROM_ALL SYSTEM)
# An assertion that fails while a graph is built is thrown through ggml's C code (GgmlGuard).
foreach(library IN ITEMS ggml-base ggml-cpu)
    target_compile_options(${library} PRIVATE $<$<COMPILE_LANGUAGE:C>:-fexceptions>)
endforeach()
