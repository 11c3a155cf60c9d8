# The image is the one file. It needs --privileged, and /var/lib/skiff on a
# volume: overlayfs does not stack on the image's own file system.
FROM scratch
COPY bin/skiff /bin/skiff
VOLUME /var/lib/skiff
ENV PATH=/bin
ENTRYPOINT ["/bin/skiff"]
CMD ["server"]
