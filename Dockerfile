# docker build -t bids_gmvae:cpu .                             CPUs, about 1.7 GB
# docker build --build-arg VARIANT=cuda -t bids_gmvae:cuda .   NVIDIA GPUs, about 6 GB
#
# The image runs as any user, without network, on a read-only root; it writes to the output
# folder, the work folder and /tmp only.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# cpu: torch without CUDA; cuda: torch with its own CUDA libraries
ARG VARIANT=cpu
# Where builds of torch without CUDA are published; empty where pip is told otherwise.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build

RUN python -m venv --without-pip /opt/app
COPY requirements.lock ./
RUN if [[ ${VARIANT} == cpu && -n ${TORCH_CPU_INDEX} ]]; then \
        index=(--extra-index-url "${TORCH_CPU_INDEX}"); \
    else \
        index=(); \
    fi \
    && python -m pip --python /opt/app/bin/python install -c requirements.lock torch "${index[@]}"

# The dependencies are a layer of their own: a change of the package does not install them again.
COPY pyproject.toml README.md LICENSE ./
COPY bids_gmvae/__init__.py bids_gmvae/__init__.py
RUN python -m pip --python /opt/app/bin/python install -c requirements.lock . \
    && python -m pip --python /opt/app/bin/python uninstall -y bids-gmvae
COPY bids_gmvae bids_gmvae
RUN python -m pip --python /opt/app/bin/python install --no-deps . \
    && /opt/app/bin/python -m compileall -q /opt/app/lib/python3*/site-packages/bids_gmvae

# The standard space that is asked for most, so that it needs no network. A build without network
# succeeds too; --output-spaces then needs a TEMPLATEFLOW_HOME that has the template.
ENV TEMPLATEFLOW_HOME=/opt/templateflow
COPY docker/fetch_templates.py ./
RUN /opt/app/bin/python fetch_templates.py && chmod -R a+rX "${TEMPLATEFLOW_HOME}" /opt/app

FROM ${BASE}
ARG VARIANT=cpu
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="bids_gmvae" \
      org.opencontainers.image.description="Quantitative MRI parameter maps with uncertainty, as a BIDS App" \
      org.opencontainers.image.version="${VERSION}-${VARIANT}" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /opt/app /opt/app
COPY --from=build /opt/templateflow /opt/templateflow

# Nothing is kept in the home folder, which may be missing, read-only or somebody else's. A user
# without an entry in /etc/passwd needs LOGNAME.
ENV PATH=/opt/app/bin:${PATH} \
    HOME=/tmp \
    LOGNAME=gmvae \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/.cache/torchinductor \
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
    && python -c "import bids_gmvae.workflows, bids_gmvae.estimators" \
    && rm -rf /tmp/.cache

WORKDIR /tmp
ENTRYPOINT ["bids-gmvae"]
