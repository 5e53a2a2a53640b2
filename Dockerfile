# The locked environment with JAX for NVIDIA GPUs, or for TPUs:
#   docker build -t cptlaw .
#   docker build --build-arg ACCELERATOR=tpu -t cptlaw .
#   docker run --gpus=all --ipc=host -v "$PWD/runs:/runs" cptlaw launch.sweep --config=configs/demo.py \
#       --workdir=/runs/demo
# CUDA, cuDNN and NCCL come as Python packages; the host needs the driver and the NVIDIA container toolkit alone.
FROM python:3.12-slim
ARG ACCELERATOR=cuda13
WORKDIR /opt/cptlaw
COPY requirements/lock-3.12.txt requirements/
RUN pip install --no-cache-dir -r requirements/lock-3.12.txt \
    && pip install --no-cache-dir "jax[$ACCELERATOR]==$(python -c 'import jax; print(jax.__version__)')"
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
ENTRYPOINT ["python", "-m"]
CMD ["launch.checks", "--workdir=/tmp/checks"]
