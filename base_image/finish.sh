#!/bin/sh
# The last step of the base image, run inside it: the user of the pods, and nothing left of the installation.
set -eu
# A name for the user: getpass.getuser(), which torch calls, fails for a uid without one.
echo 'modelwright:x:10001:10001:modelwright:/tmp:/usr/sbin/nologin' >> /etc/passwd
echo 'modelwright:x:10001:' >> /etc/group
find /var/cache/apt /var/lib/apt/lists /var/log -type f -delete
rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache
