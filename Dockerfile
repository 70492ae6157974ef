# Python and R with everything that work on scvibridge needs, by dev/env: some 5 GB.
#   docker build --tag scvibridge .
#   docker run --rm --interactive --tty scvibridge
FROM debian:trixie-slim

RUN apt-get update \
  && apt-get install --yes --no-install-recommends ca-certificates git make

ENV SCVIBRIDGE_CACHE=/opt/scvibridge \
    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /scvibridge
COPY . .
# dev/env installs Debian's Python and R with their packages, and scvibridge from this folder.
RUN dev/env true
CMD ["dev/env", "bash"]
