module example.org/gohold

go 1.25

require github.com/edgefn/edgefn-go v0.0.0
