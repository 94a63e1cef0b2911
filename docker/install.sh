#!/bin/sh
# Runs while an image is built: makes /opt/venv from a lock, every archive checked against its hashes.
# What pip needs to reach a package index comes as build secrets (pip.conf, CA certificates) and stays out of the image;
# archives may also come from a folder, the build context "wheels".
set -eu
lock=$1

if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi

# the base image's pip, from outside: the environment gets none
python3 -m venv --without-pip /opt/venv
pip() {
    python3 -m pip --python /opt/venv/bin/python --disable-pip-version-check --quiet "$@"
}
install() {
    pip install --no-compile --no-deps --find-links=/wheels --require-hashes --only-binary=:all: "$@"
}

if [ -n "${SOURCES:-}" ]; then
    # packages published as source only are built with the lock's setuptools, not with what an index has today
    sed -n '/^setuptools==/,/[^\\]$/p' "$lock" > /tmp/setuptools.lock
    install --requirement=/tmp/setuptools.lock
    set -- --no-binary="$SOURCES" --no-build-isolation --use-pep517
else
    set --
fi
install "$@" --requirement="$lock"
if [ -n "${TORCH:-}" ]; then  # outside the lock: a file for each kind of build, with hashes
    # a secret and no build argument: those stay in the history of an image, and the address may hold a password
    if [ -s /run/secrets/torch-index ]; then PIP_INDEX_URL=$(cat /run/secrets/torch-index) && export PIP_INDEX_URL; fi
    install --requirement="$TORCH"
fi
pip check

# byte code that is never compared with its source: nothing changes in an image; one file of torch is in the words of 3.12
/opt/venv/bin/python -m compileall -q -j 0 -x 'torch/testing/_internal/py312_' --invalidation-mode unchecked-hash \
    /opt/venv/lib
