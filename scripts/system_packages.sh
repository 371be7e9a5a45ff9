#!/usr/bin/env bash
# Installs what pip cannot: a C++ compiler, CMake, and software rendering for MuJoCo.
# Does nothing where all of it is there; says what to install where it lacks the right to.
set -eu

missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v cmake >/dev/null || missing+=(cmake)
libraries=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)
case "$libraries" in *libEGL.so.1*) ;; *) missing+=(libegl1) ;; esac
case "$libraries" in *libEGL_mesa.so.0*) ;; *) missing+=(libegl-mesa0) ;; esac
case "$libraries" in *libGL.so.1*) ;; *) missing+=(libgl1) ;; esac
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            echo "These system packages are missing: ${missing[*]}" >&2
            echo "Install them and try again: sudo apt-get install ${missing[*]}" >&2
            exit 1
        fi
    fi
    echo "Installing system packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -q
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
else
    echo "This system has no apt-get. Install what gives you: ${missing[*]}" >&2
    exit 1
fi
