# docker build -t bids_gmvae:cpu .                             CPUs, about 1.7 GB
# docker build --build-arg VARIANT=cuda -t bids_gmvae:cuda .   NVIDIA GPUs, about 6 GB
#
# The image runs as any user, without home folder and network, on a read-only root; it writes to
# the output folder and the work folder only.

# To build from exactly the same base again, give its digest, which `docker pull` prints:
# --build-arg BASE=docker.io/library/python@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# cpu: torch without CUDA; cuda: torch with its own CUDA libraries
ARG VARIANT=cpu
# Where builds of torch without CUDA are published; empty where pip is told otherwise.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

RUN python -m venv --without-pip /opt/app
COPY requirements.lock ./
RUN case ${VARIANT} in \
        cpu) export PIP_EXTRA_INDEX_URL="${TORCH_CPU_INDEX}" ;; \
        cuda) ;; \
        *) echo "VARIANT is cpu or cuda, not ${VARIANT}" >&2; exit 1 ;; \
    esac \
    && python -m pip --python /opt/app/bin/python install -c requirements.lock torch

# The dependencies are a layer of their own: a change of the package does not install them again.
COPY pyproject.toml README.md LICENSE ./
COPY bids_gmvae/__init__.py bids_gmvae/__init__.py
RUN python -m pip --python /opt/app/bin/python install -c requirements.lock . \
    && python -m pip --python /opt/app/bin/python uninstall -y bids-gmvae
# What is needed only to test and to extend them, a fifth of their size.
WORKDIR /opt/app/lib/python3.11/site-packages
RUN find torch numba pandas scipy sympy sklearn numpy dipy \
        \( -path torch/test -o -path torch/include -o -name tests \) -type d -prune -exec rm -r {} +
WORKDIR /build
COPY bids_gmvae bids_gmvae
RUN python -m pip --python /opt/app/bin/python install --no-deps . \
    && /opt/app/bin/python -m compileall -q /opt/app/lib/python3*/site-packages/bids_gmvae

# Standard spaces that need no network when they are asked for; TEMPLATES= (empty) for none. Where
# they cannot be had, the build says so and goes on: --output-spaces then needs a
# TEMPLATEFLOW_HOME that has the template.
ARG TEMPLATES="MNI152NLin2009cAsym"
ENV TEMPLATEFLOW_HOME=/opt/templateflow
COPY docker/fetch_templates.py ./
# hadolint ignore=SC2086
RUN /opt/app/bin/python fetch_templates.py ${TEMPLATES} && chmod -R a+rX "${TEMPLATEFLOW_HOME}"

FROM ${BASE}
COPY --from=build /opt/app /opt/app
COPY --from=build /opt/templateflow /opt/templateflow

ARG BASE
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bids_gmvae" \
      org.opencontainers.image.description="Quantitative MRI parameter maps with uncertainty, as a BIDS App" \
      org.opencontainers.image.version="${VERSION}-${VARIANT}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"

# The app keeps its caches in the work folder, compiled code among them: what is compiled for the
# CPU of the build may not run on another, and a /tmp that Apptainer shares with the host is not
# ours. A user without an entry in /etc/passwd needs LOGNAME.
ENV PATH=/opt/app/bin:${PATH} \
    LOGNAME=gmvae \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=0 \
    NO_ET=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BIDS_GMVAE_CONTAINER_TYPE=docker \
    BIDS_GMVAE_CONTAINER_TAG=bids_gmvae:${VERSION}-${VARIANT}

# A missing library or a broken import shows here, not at a user's.
RUN bids-gmvae --version \
    && bids-gmvae-simulate --version \
    && python -c "import torch, bids, dipy.segment.mask, nilearn, nitransforms, matplotlib.pyplot" \
    && NUMBA_CACHE_DIR=/tmp/numba \
       python -c "import bids_gmvae.workflows, bids_gmvae.estimators.compiled.maximise" \
    && rm -rf /root/.cache /root/.config /tmp/*

WORKDIR /tmp
ENTRYPOINT ["bids-gmvae"]
