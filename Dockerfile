# The image is the one file: `make image` makes the same without Docker. It
# needs --privileged, and /var/lib/skiff on a volume: overlayfs does not stack on
# the image's own file system. docs/release.md has the command lines.
FROM scratch
COPY bin/skiff /bin/skiff
VOLUME /var/lib/skiff
VOLUME /var/lib/kubelet
VOLUME /var/log
ENV PATH=/bin
ENTRYPOINT ["/bin/skiff"]
CMD ["server"]
