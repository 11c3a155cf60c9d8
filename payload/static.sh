#!/bin/sh
# static.sh OUT CC: say in OUT which Debian packages' libraries CC links
# statically into skiff and runc, one file a library, with its copyright.
set -eu
out=$1 cc=$2

say() { echo "payload/static: $*" >&2; }

rm -rf "$out"
mkdir -p "$out"
for library in libc libgcc libseccomp; do
	file=$($cc -print-file-name=$library.a)
	# A library that the compiler does not find is printed as it was asked for.
	case $file in
	*/*) file=$(readlink -f "$file") ;;
	*) say "$cc finds no $library.a"; exit 1 ;;
	esac
	package=$(dpkg-query -S "$file" | sed 's/: \/.*//')
	{
		dpkg-query -W -f 'Package: ${Package}\nVersion: ${Version}\nSource: ${Source}\n' "$package"
		echo
		cat "/usr/share/doc/${package%%:*}/copyright"
	} >"$out/$library"
done
