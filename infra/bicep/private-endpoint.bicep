// One private endpoint and its name in a private DNS zone.

@description('Name of the endpoint.')
param name string

@description('Azure region of the subnet.')
param location string

@description('Tags of every resource.')
param tags object

@description('Resource id of the target.')
param targetId string

@description('Service of the target: account, blob, table, sites.')
param group string

@description('Subnet of the endpoint.')
param subnetId string

@description('Private DNS zone of the service.')
param dnsZoneId string

resource endpoint 'Microsoft.Network/privateEndpoints@2024-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: group
        properties: {
          privateLinkServiceId: targetId
          groupIds: [group]
        }
      }
    ]
  }
}

resource zoneGroup 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-07-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: group
        properties: {
          privateDnsZoneId: dnsZoneId
        }
      }
    ]
  }
}
