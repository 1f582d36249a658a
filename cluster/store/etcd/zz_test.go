package etcd_test
import ("testing";"time";"context";"github.com/edgefn/edgefn/cluster/store/etcd")
func TestZZ(t *testing.T){
 for i := range 60 {
  dir := t.TempDir()
  ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%6)*time.Millisecond*10)
  s, err := etcd.Open(ctx, etcd.Config{Dir:dir}); cancel()
  if err==nil { s.Close(); continue }
  ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
  s, err = etcd.Open(ctx, etcd.Config{Dir:dir}); cancel()
  if err != nil { t.Errorf("%d: %v", i, err); continue }
  s.Close()
 }
}
