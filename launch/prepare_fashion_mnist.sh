#!/usr/bin/env bash
# Fashion-MNIST as IDX files: data/fashion_mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz.
#
# 70,000 grey images of 28 x 28 in ten classes (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), from Debian's package
# dataset-fashion-mnist, which is installed (root on Debian and Ubuntu). Takes seconds. What is already there is not made again.
# Elsewhere: put the four files there yourself.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=data/fashion_mnist packaged=/usr/share/datasets/fashion-mnist

if [[ -s $folder/t10k-labels-idx1-ubyte.gz ]]; then
    echo "$folder is ready"
    exit
fi
[[ -d $packaged ]] || install_packages dataset-fashion-mnist
[[ -d $packaged ]] || fail "$packaged is not there; put Fashion-MNIST's four .gz files into $folder"
mkdir -p "$folder"
for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    cp "$packaged/$name-ubyte.gz" "$folder/"
done
echo "$folder is ready"
