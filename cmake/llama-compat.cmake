# llama_compat/lib: the libraries under the names that llama-cpp-python's bindings load, and what they were built from.
#
# A wheel holds no links, and the invariant is that our libraries have names of their own. So libllama here is a library
# without code or SONAME that depends on ours: dlsym() finds all of llama.cpp and ggml through it, nothing exists twice,
# and a stock libllama in the same process stays apart.

set(LLAMA_CPP_PYTHON_VERSION "" CACHE STRING "For LLAMA_CPP_SOURCE_DIR: the llama-cpp-python release whose bindings fit the tree")
option(LLAMA_COMPAT_MTMD "Build libmtmd, llama.cpp's vision and audio, for llama-cpp-python" ON)

set(COMPAT_DIR modernbert_llama/llama_compat/lib)

if (LLAMA_CPP_SOURCE_DIR)
    file(TO_CMAKE_PATH "${LLAMA_CPP_SOURCE_DIR}" COMPAT_SOURCE)
    set(COMPAT_SOURCE  "LLAMA_CPP_SOURCE_DIR=${COMPAT_SOURCE}")
    set(COMPAT_VERSION "${LLAMA_CPP_PYTHON_VERSION}")
    if (NOT COMPAT_OWN_TAG)
        string(RANDOM LENGTH 12 tag)
        set(COMPAT_OWN_TAG "own-${tag}" CACHE INTERNAL "")
    endif()
    set(BUILD_TAG "${COMPAT_OWN_TAG}")
else()
    set(COMPAT_SOURCE "${UPSTREAM}")
    file(READ "${CMAKE_CURRENT_SOURCE_DIR}/patches/upstreams.json" pins)
    string(JSON n_pins LENGTH "${pins}")
    math(EXPR last "${n_pins} - 1")
    foreach (i RANGE ${last})
        string(JSON name GET "${pins}" ${i} name)
        if (name STREQUAL UPSTREAM)
            string(JSON package GET "${pins}" ${i} package)
            string(JSON version GET "${pins}" ${i} version)
            string(JSON tree    GET "${pins}" ${i} tree)
        endif()
    endforeach()
    set(COMPAT_VERSION "")
    if (package STREQUAL "llama-cpp-python")
        set(COMPAT_VERSION "${version}")
    endif()
    string(SUBSTRING "${tree}" 0 16 tree)
    set(BUILD_TAG "${UPSTREAM}-${tree}")
endif()

configure_file(cmake/build-tag.c.in build-tag.c @ONLY)

add_library(llama_compat SHARED "${CMAKE_CURRENT_BINARY_DIR}/build-tag.c")
target_link_libraries(llama_compat PRIVATE llama ggml ggml-base)
if (NOT APPLE AND NOT MSVC)
    target_link_options(llama_compat PRIVATE "LINKER:--no-as-needed")
endif()
set_target_properties(llama_compat PROPERTIES OUTPUT_NAME llama)
set(COMPAT_LIBRARIES llama_compat)

if (LLAMA_COMPAT_MTMD AND UPSTREAM MATCHES "^llama-cpp-python" AND EXISTS "${LLAMA_TREE}/tools/mtmd/CMakeLists.txt")
    # made for llama.cpp's own directory scope
    get_directory_property(LLAMA_VERSION_BASE  DIRECTORY "${LLAMA_TREE}" DEFINITION LLAMA_VERSION_BASE)
    get_directory_property(LLAMA_VERSION_MAJOR DIRECTORY "${LLAMA_TREE}" DEFINITION LLAMA_VERSION_MAJOR)
    add_subdirectory("${LLAMA_TREE}/tools/mtmd" mtmd EXCLUDE_FROM_ALL)
    set_property(TARGET mtmd PROPERTY VERSION)
    set_property(TARGET mtmd PROPERTY SOVERSION)
    set_property(TARGET mtmd PROPERTY PUBLIC_HEADER)
    set_property(TARGET mtmd PROPERTY PRIVATE_HEADER)
    add_dependencies(llama_compat mtmd)
    list(APPEND COMPAT_LIBRARIES mtmd)
endif()

foreach (lib ${COMPAT_LIBRARIES})
    set_target_properties(${lib} PROPERTIES NO_SONAME ON INSTALL_RPATH "${ORIGIN}/../.." BUILD_WITH_INSTALL_RPATH ON)
endforeach()

set(COMPAT_FILES "")
foreach (lib ${LIBRARIES})
    list(APPEND COMPAT_FILES "$<TARGET_FILE_NAME:${lib}>")
endforeach()
foreach (lib ${LIBRARIES} mtmd)
    if (TARGET ${lib})
        target_sources(${lib} PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/build-tag.c")
    endif()
endforeach()

list(JOIN COMPAT_FILES "\", \"" files)
file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/build.json" CONTENT "{
  \"source\": \"${COMPAT_SOURCE}\",
  \"llama_cpp_python\": \"${COMPAT_VERSION}\",
  \"tag\": \"${BUILD_TAG}\",
  \"libraries\": [\"${files}\"]
}
")

install(FILES "${CMAKE_CURRENT_BINARY_DIR}/build.json" DESTINATION ${COMPAT_DIR} COMPONENT python)
if (WIN32)
    # GetProcAddress() looks into one library only: llama.dll is a copy, with what it depends on beside it
    install(FILES $<TARGET_FILE:llama> DESTINATION ${COMPAT_DIR} COMPONENT python RENAME llama.dll)
    list(REMOVE_ITEM COMPAT_LIBRARIES llama_compat)
    foreach (lib ${LIBRARIES})
        install(FILES $<TARGET_FILE:${lib}> DESTINATION ${COMPAT_DIR} COMPONENT python)
    endforeach()
endif()
if (COMPAT_LIBRARIES)
    install(TARGETS ${COMPAT_LIBRARIES}
        LIBRARY DESTINATION ${COMPAT_DIR} COMPONENT python NAMELINK_SKIP
        RUNTIME DESTINATION ${COMPAT_DIR} COMPONENT python)
endif()
