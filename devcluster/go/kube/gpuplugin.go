package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	deviceplugin "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

// gpuPlugin tells the kubelet of devices that do not exist, so that pods that ask for GPUs are placed, counted and
// allocated by the real scheduler and the real kubelet. A container sees which it got in MODELWRIGHT_DEVCLUSTER_GPUS.
//
// The kubelet removes every plugin's socket when it starts; the plugin then ends and its supervisor starts it again,
// which registers it with the new kubelet.
func gpuPlugin() {
	resource := flag.String("resource", "nvidia.com/gpu", "name of the extended resource")
	count := flag.Int("count", 8, "number of devices")
	flag.Parse()

	ctx := context.Background()
	logger := klog.FromContext(ctx)
	devices := make([]*pluginapi.Device, *count)
	for i := range devices {
		devices[i] = &pluginapi.Device{ID: fmt.Sprintf("gpu-%d", i), Health: pluginapi.Healthy}
	}
	socket := filepath.Join(pluginapi.DevicePluginPath, strings.NewReplacer("/", "-").Replace(*resource)+".sock")
	for !exists(pluginapi.KubeletSocket) {
		time.Sleep(200 * time.Millisecond)
	}
	plugin := deviceplugin.NewDevicePluginStub(logger, devices, socket, *resource, false, false)
	plugin.SetAllocFunc(allocate)
	if err := plugin.Start(ctx); err != nil {
		logger.Error(err, "cannot serve the device plugin")
		os.Exit(1)
	}
	if err := plugin.Register(ctx, pluginapi.KubeletSocket, *resource, ""); err != nil {
		logger.Error(err, "the kubelet did not take the device plugin")
		os.Exit(1)
	}
	for exists(socket) {
		time.Sleep(500 * time.Millisecond)
	}
	logger.Info("the kubelet has restarted")
}

func allocate(request *pluginapi.AllocateRequest, _ map[string]*pluginapi.Device) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"MODELWRIGHT_DEVCLUSTER_GPUS": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
