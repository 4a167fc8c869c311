# lipsep serve (or web, or separate) on processors:
#   docker build -t lipsep . && docker run -p 8000:8000 -v jobs:/data -e LIPSEP_TOKEN=... lipsep
FROM python:3.11-slim

# the compiler stays: kernels are compiled for the processor that they run on, which may be another than the builder's
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 lipsep \
 && install --directory --owner lipsep /data

WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)"
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[web,serve,onnx]'

USER 10001
WORKDIR /data
# one separation of the bundled clip: it proves the image and compiles the kernels for this processor
RUN lipsep demo --out /tmp/demo --device cpu && rm -r /tmp/demo
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["lipsep"]
CMD ["serve", "--data", "/data", "--host", "0.0.0.0", "--port", "8000"]
