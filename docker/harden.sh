#!/bin/sh
# Runs while an image is built, on a Debian base with Python: adds the user, removes what could install or compile
# software or gain rights, and what nobody reads in a container. The list of installed packages stays true (and stays
# in /var/lib/dpkg/status, where scanners look): packages leave through dpkg, dpkg last.
set -eu
[ -e /var/lib/dpkg/status ] || { echo "The base image must be Debian's or Ubuntu's: it has no dpkg." >&2; exit 78; }

echo 'evergreen:x:50000:50000:Evergreen:/tmp:/usr/sbin/nologin' >> /etc/passwd
echo 'evergreen:x:50000:' >> /etc/group
install -d -o 50000 -g 50000 /opt/airflow

# pip and its like, where the base image brought them outside Debian's packages
python3 - <<'PY'
import ensurepip, pathlib, shutil, site, sysconfig
folders = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")}
for folder in folders:
    for pattern in ("pip", "pip-*", "setuptools", "setuptools-*", "pkg_resources", "wheel", "wheel-*", "_distutils_hack",
                    "distutils-precedence.pth", "ensurepip", "idlelib", "lib2to3", "test", "turtledemo"):
        for path in pathlib.Path(folder).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
for path in pathlib.Path("/usr/local/bin").glob("*"):
    if path.name.startswith(("pip", "idle", "2to3", "wheel")):
        path.unlink()
PY
rm -rf /root/.cache /usr/share/python-wheels

rm -f /var/lib/dpkg/info/*.prerm /var/lib/dpkg/info/*.postrm  # what they would tidy up is going too
dpkg-query -W -f '${Package}\n' | grep -E \
    -e '^(apt|aptitude|libapt-pkg.*|apt-utils|debian-archive-keyring|gpgv|adduser|debconf|libdebconfclient0)$' \
    -e '^(perl|perl-.*|libperl.*|make|dpkg-dev|build-essential|gcc|g\+\+|cpp|gcc-[0-9]+|g\+\+-[0-9]+|cpp-[0-9]+)$' \
    -e '^(binutils.*|libbinutils|lib.*-dev|linux-libc-dev|curl|wget|git|openssh-client)$' \
    -e '^(python3-(pip|setuptools|wheel|venv|pkg-resources|distutils|lib2to3)|python3.*-(venv|dev)|python3-.*-whl)$' \
    -e '^(login|passwd|mount|e2fsprogs|logsave|libss2|libext2fs2|util-linux-extra)$' \
    | xargs dpkg --purge --force-all
dpkg --purge --force-all dpkg || [ ! -e /usr/bin/dpkg ]
rm -rf /etc/apt /etc/dpkg /usr/lib/apt /usr/lib/dpkg /var/lib/apt /var/cache/* /var/log/* /var/lib/dpkg/info \
    /var/lib/dpkg/status-old /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
